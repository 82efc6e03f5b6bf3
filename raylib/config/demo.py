"""Settings of `jobs/demo.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylib.config.checks import require
from raylib.config.paths import path_field


@dataclass(frozen=True)
class DemoConfig:
    """The reconstruction on photographs that installed packages carry, and on a damaged file.

    Attributes:
        output: folder for photographs/ and faces/, the output of the reconstruction.
        refine: steps of refinement through the renderer, as of jobs/reconstruct.py; 0 for none.
    """

    output: str = field(default="out/demo", metadata=path_field(output=True))
    refine: int = 30

    def __post_init__(self) -> None:
        require(bool(self.output), "output", self.output, "a folder")
        require(self.refine >= 0, "refine", self.refine, "0 or more steps")
