"""The report of a reconstruction: what `jobs/report.py --input OUT` writes, and every reconstruction at its end."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from rich.console import Console

from raylib.config import STATUSES, ReconstructConfig, ReportConfig
from raylib.errors import ConfigError, RaylibError
from raylib.io.storage import Location
from raylib.morphable.readers import load_model
from raylib.report.faces import HEAVY, FaceEntry, FacePacker, PictureSettings
from raylib.report.geometry import SIGMA_STEP_MM, STEP_MM, SharedTopology
from raylib.report.index import choose, distributions, entries, figure_values, read_index, read_parts, totals
from raylib.report.page import Packs, json_text, write_page
from raylib.runtime.progress import watched

PAGE = "report.html"
THUMBS_A_PACK = 64
FACES_A_PACK = 12
THUMB_BYTES = 4500  # of a thumbnail, generously


@dataclass(frozen=True)
class Run:
    """A reconstruction as its output folder tells it.

    Attributes:
        output: the folder.
        record: run.json; empty where the run did not come to its end.
        table: the listed columns of all rows.
        values: each figure of each row.
    """

    output: Location
    record: Mapping[str, Any]
    table: pa.Table
    values: dict[str, Float[np.ndarray, " n"]]

    @staticmethod
    def read(output: Location) -> Run:
        """Returns the run in a folder.

        Raises:
            ConfigError: there are no rows of a reconstruction.
        """
        record = read_record(output)
        try:
            table = read_index(output)
        except (pa.ArrowInvalid, KeyError) as error:
            raise ConfigError(f"input {output.uri!r} holds faces/*.parquet that are no rows of this job") from error
        if not table.num_rows and not record:
            raise ConfigError(f"input {output.uri!r} holds no run: expected run.json or faces/*.parquet in it")
        return Run(output, record, table, figure_values(table))

    def setting(self, name: str) -> Any:
        """Returns a setting of the run, None where it is not known."""
        return (self.record.get("config") or {}).get(name)

    def pictures(self, config: ReportConfig) -> PictureSettings:
        """Returns which pictures the report may hold: none that the run was told to keep out.

        A run without run.json may have been told anything; its output folder then is all that is shown.
        """
        with_pixels = self.setting("privacy") == "none" and not self.setting("hide_names")
        return PictureSettings(
            photographs=config.photographs and bool(self.record) and with_pixels,
            stored=self.setting("privacy") in (None, "none"),
            photo_px=config.photo_px,
            texture_px=config.texture_px,
            max_pixels=int(self.setting("max_pixels") or ReconstructConfig("-", "-").max_pixels),
            storage_options=config.storage_options,
        )


def read_record(output: Location) -> dict[str, Any]:
    """Returns run.json, empty where there is none.

    Raises:
        ConfigError: it is not JSON.
    """
    try:
        content = output.read_bytes(output.join("run.json"))
    except FileNotFoundError:
        return {}
    try:
        record = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"run.json in {output.uri!r} is no JSON: {error}") from error
    return record if isinstance(record, dict) else {}


def write_report(config: ReportConfig, console: Console) -> str:
    """Writes the page of one reconstruction and returns where it is.

    Raises:
        ConfigError: the input holds no run.
    """
    assert config.input is not None
    run = Run.read(Location(config.input, config.storage_options))
    target = Location(config.output or config.input, config.storage_options)
    topologies = run_topologies(run)
    chosen = choose(run.table, run.values, config.max_faces)
    packs = Packs(target, PAGE, config.page_mb * 1e6)
    found = pack_faces(run, chosen, topologies, config, packs, console)
    data = {
        "kind": "reconstruction",
        "title": "Reconstruction report",
        **run_summary(run),
        "figures": distributions(run.values),
        "rows": entries(run.table, run.values, chosen) | found,
        "links": config.output is None,
    }
    write_page(target, PAGE, f"Reconstruction report {data['name']}".strip(), data, packs)
    target.remove_temporary()
    return target.shown(target.join(PAGE))


def run_summary(run: Run) -> dict[str, Any]:
    """Returns what a page says of a run as a whole."""
    names_shown = not run.setting("hide_names")
    return {
        "name": run.output.uri if names_shown else "",
        "run": dict(run.record),
        "totals": totals(run.table),
        "statuses": list(STATUSES),
        "step_mm": STEP_MM,
        "sigma_step_mm": SIGMA_STEP_MM,
        "privacy": run.setting("privacy") or ("none" if run.record else "unknown"),
    }


def run_topologies(run: Run) -> dict[int, SharedTopology]:
    """Returns the run's topologies by number of vertices: its model's, or where that is not at hand a GLB's."""
    topologies: dict[int, SharedTopology] = {}
    path = run.setting("morphable_model")
    try:
        model = load_model(path) if path else None
    except (RaylibError, OSError):
        model = None
    if model is not None and model.name == run.record.get("morphable_model"):
        topologies[len(model.mean)] = SharedTopology.of_model(model)
    if topologies or not run.table.num_rows:
        return topologies
    names, uris = run.table["morphable_model"].to_pylist(), run.table["glb_uri"].to_pylist()
    for name, uri in dict(zip(names, uris, strict=True)).items():
        if uri is None:
            continue
        try:
            glb = run.output.read_bytes(run.output.join(uri))
        except FileNotFoundError:
            continue
        topology = SharedTopology.of_glb(glb, str(name))
        topologies.setdefault(len(topology.base_mm), topology)
    return topologies


def pack_faces(
    run: Run,
    chosen: Int[np.ndarray, " m"],
    topologies: Mapping[int, SharedTopology],
    config: ReportConfig,
    packs: Packs,
    console: Console,
    prefix: str = "",
    clay: bool = False,
) -> dict[str, Any]:
    """Adds the pictures and meshes of the chosen rows to the packs; returns where each row's are.

    Args:
        run: the rows' run.
        chosen: rows to add.
        topologies: of the run.
        config: limits.
        packs: where to.
        console: for the progress.
        prefix: what the packs' names begin with, where a page holds several runs.
        clay: add thumbnails of the bare shape, for comparing shapes.
    """
    packer = FacePacker(run.output, topologies, run.pictures(config), prefix, clay)
    thumbs: list[list[str] | None] = []
    place: list[list[str | int] | None] = []
    faces = _FacePacks(packs, len(chosen), prefix)
    shown = _face_entries(run.output, chosen, packer)
    for entry in watched(shown, "report: pictures and meshes", len(chosen), console):
        thumbs.append(entry.thumbnails)
        place.append(None if entry.detail is None else faces.add(entry.detail))
    faces.close()
    inside = packs.fits(sum(len("".join(both or ())) + 8 for both in thumbs))
    for n in range(0, len(thumbs), THUMBS_A_PACK):
        packs.add(f"{prefix}thumbs{n // THUMBS_A_PACK}", thumbs[n : n + THUMBS_A_PACK], inside)
    return {
        "place": place,
        "thumbs": [[f"{prefix}thumbs{n // THUMBS_A_PACK}", n % THUMBS_A_PACK] for n in range(len(thumbs))],
        "topologies": {f"{prefix}{size}": topology.packed() for size, topology in topologies.items()},
    }


class _FacePacks:
    """Gathers faces into packs that go all into the page or all beside it, by the size of the first."""

    def __init__(self, packs: Packs, expected: int, prefix: str):
        self._packs, self._expected, self._prefix = packs, expected, prefix
        self._open: list[dict[str, Any]] = []
        self._number = 0
        self._inside: bool | None = None

    def add(self, detail: dict[str, Any]) -> list[str | int]:
        """Adds a face and returns its pack and its place there."""
        if len(self._open) == FACES_A_PACK:
            self.close()
        self._open.append(detail)
        return [self._name, len(self._open) - 1]

    @property
    def _name(self) -> str:
        return f"{self._prefix}faces{self._number}"

    def close(self) -> None:
        """Hands the pack over."""
        if not self._open:
            return
        if self._inside is None:
            one = len(json_text(self._open)) / len(self._open)
            self._inside = self._packs.fits(self._expected * (one + THUMB_BYTES))
        self._packs.add(self._name, self._open, self._inside)
        self._open, self._number = [], self._number + 1


def _face_entries(output: Location, chosen: Int[np.ndarray, " m"], packer: FacePacker) -> Iterator[FaceEntry]:
    """Yields the entries of the chosen rows in order; some images are worked on ahead, on all cores."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[FaceEntry]]] = deque()
        for rows in _chosen_images(output, chosen):
            ahead.append(pool.submit(packer.image, rows))
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _chosen_images(output: Location, chosen: Int[np.ndarray, " m"]) -> Iterator[Sequence[dict[str, Any]]]:
    """Yields the chosen rows with their heavy columns, an image's rows together."""
    start = 0
    for table in read_parts(output, HEAVY):
        inside = chosen[(chosen >= start) & (chosen < start + table.num_rows)] - start
        start += table.num_rows
        if len(inside):
            rows = table.take(pa.array(inside)).to_pylist()
            for _, group in groupby(rows, key=lambda row: row["image_uri"]):
                yield list(group)
