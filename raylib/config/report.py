"""Settings of `jobs/report.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylib.config.checks import require
from raylib.config.paths import path_field


@dataclass(frozen=True)
class ReportConfig:
    """A page to look at what a job left behind: `report.html`, which opens from disk without server or network.

    Attributes:
        input: output folder or URI of a reconstruction or of a training.
        compare: output folders of several runs to show side by side instead: reconstructions of the same photographs,
            or trainings.
        output: folder or URI for report.html (and report-data/); by default the input, or the first of `compare`,
            where a comparison is called comparison.html.
        photographs: read the photographs again, where they still lie where the run found them, for thumbnails and
            overlays; never done for a run with `privacy` or `hide_names`. Without them, previews are cut up.
        page_mb: megabytes of pictures and meshes that the page itself may hold; beyond it they go to files in
            report-data/ that the page loads as they are needed.
        max_faces: faces that are listed; of a larger run the worst, the failed and an even sample. Totals and
            distributions always count all.
        photo_px: side in pixels of the part of the photograph beside each face.
        texture_px: largest side in pixels of the texture on each face.
        storage_options: keyword arguments for the fsspec filesystem of input and output (endpoint_url, anon, ...).
    """

    input: str | None = field(default=None, metadata=path_field())
    compare: list[str] = field(default_factory=list, metadata=path_field())
    output: str | None = field(default=None, metadata=path_field(output=True))
    photographs: bool = True
    page_mb: float = 20.0
    max_faces: int = 20_000
    photo_px: int = 320
    texture_px: int = 384
    storage_options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one = bool(self.input) != bool(self.compare)
        require(one, "input", self.input, "the output of a run, or several of them as compare and no input")
        require(len(self.compare) != 1, "compare", self.compare, "at least two runs")
        require(0 <= self.page_mb <= 500, "page_mb", self.page_mb, "0 to 500 megabytes")
        require(self.max_faces >= 1, "max_faces", self.max_faces, "at least 1")
        for name in ("photo_px", "texture_px"):
            require(64 <= getattr(self, name) <= 2048, name, getattr(self, name), "64 to 2048 pixels")
