"""Several reconstructions of the same photographs on one page: `jobs/report.py --compare OUT_A OUT_B`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.report.index import FIGURES, distributions, entries, figure_values
from raylib.report.page import Packs, write_page
from raylib.report.reconstruction import Run, pack_faces, run_summary, run_topologies

PAGE = "comparison.html"
_SAME_BOX = 0.5  # intersection over union from which two boxes are of one face


def write_comparison(config: ReportConfig, console: Console) -> str:
    """Writes the page that compares reconstructions and returns where it is.

    Raises:
        ConfigError: an input holds no run, or the runs share no photograph.
    """
    runs, pairs = read_pairs(config)
    target = Location(config.output or config.compare[0], config.storage_options)
    names = run_names([run.output.uri for run in runs], [bool(run.setting("hide_names")) for run in runs])
    listed = pairs[:: -(-len(pairs) * len(runs) // config.max_faces)] if config.max_faces else pairs
    # One table holds the rows of all runs; pairs refer to it.
    starts = np.cumsum([0, *(run.table.num_rows for run in runs)])
    table = pa.concat_tables([run.table for run in runs], promote_options="permissive")
    values = figure_values(table)
    chosen = np.unique([starts[r] + row for pair in listed for r, row in enumerate(pair) if row is not None])
    packs = Packs(target, PAGE, config.page_mb * 1e6)
    found: dict[str, Any] = {"place": [], "topologies": {}, "thumbs": []}
    for r, run in enumerate(runs):
        mine = chosen[(chosen >= starts[r]) & (chosen < starts[r + 1])] - starts[r]
        got = pack_faces(run, mine, run_topologies(run), config, packs, console, f"run{r}-", clay=True)
        for key, value in got.items():
            found[key] = found[key] | value if isinstance(value, dict) else found[key] + value
    at = {int(row): n for n, row in enumerate(chosen)}
    data = {
        "kind": "comparison",
        "title": "Comparison of reconstructions",
        "runs": [run_summary(run) | {"name": name} for run, name in zip(runs, names, strict=True)],
        "pairs": [
            [None if row is None else at[int(starts[r] + row)] for r, row in enumerate(pair)] for pair in listed
        ],
        "pairs_in_all": len(pairs),
        "figures": paired_figures(values, pairs, starts),
        "rows": entries(table, values, chosen) | found,
        "links": False,
        **{key: run_summary(runs[0])[key] for key in ("step_mm", "sigma_step_mm", "statuses")},
        "privacy": "none" if all(run.setting("privacy") == "none" for run in runs) else "mixed",
    }
    write_page(target, PAGE, " and ".join(names), data, packs)
    target.remove_temporary()
    return target.shown(target.join(PAGE))


def read_pairs(config: ReportConfig) -> tuple[list[Run], list[list[int | None]]]:
    """Returns the runs, and what belongs together in them (see `matched`).

    Raises:
        ConfigError: an input holds no run, or the runs share no photograph.
    """
    runs = [Run.read(Location(uri, config.storage_options)) for uri in config.compare]
    pairs = matched([run.table for run in runs])
    if not pairs:
        raise ConfigError(f"compare is {config.compare}, expected runs that share photographs; these share none")
    return runs, pairs


def run_names(uris: Sequence[str], hidden: Sequence[bool]) -> list[str]:
    """Returns short names of runs that tell them apart: the last parts of their paths, as many as that takes."""
    paths = [PurePosixPath(uri.rstrip("/")).parts for uri in uris]
    for length in range(1, max(map(len, paths)) + 1):
        names = [str(PurePosixPath(*parts[-length:])) for parts in paths]
        if len(set(names)) == len(names):
            break
    else:
        names = [f"{name} ({n + 1})" for n, name in enumerate(names)]
    return [f"run {n + 1}" if hide else name for n, (name, hide) in enumerate(zip(names, hidden, strict=True))]


def matched(tables: Sequence[pa.Table]) -> list[list[int | None]]:
    """Returns what belongs together: for each face or image of the first run its rows in all runs.

    Photographs are the same where their bytes are, faces where their boxes overlap by half. Only photographs that all
    runs have seen count.
    """
    by_image = [_rows_by_image(table) for table in tables]
    out: list[list[int | None]] = []
    for sha, first in by_image[0].items():
        if not all(sha in rows for rows in by_image):
            continue
        left = [dict(rows[sha]) for rows in by_image]
        for row, box in first:
            out.append([row, *(_take(others, box) for others in left[1:])])
        # Faces that only a later run found.
        for r, others in enumerate(left[1:], start=1):
            for row, box in others.items():
                if box is not None:
                    out.append([None] * r + [row] + [None] * (len(tables) - r - 1))
    return out


def paired_figures(
    values: Mapping[str, Float[np.ndarray, " n"]], pairs: Sequence[Sequence[int | None]], starts: np.ndarray
) -> list[dict[str, Any]]:
    """Returns each figure's distribution in each run over the same bars, and how often each run is best."""
    out = []
    for shared in distributions(dict(values)):
        figure = next(f for f in FIGURES if f.key == shared["key"])
        column = values[figure.key]
        table = np.full((len(pairs), len(starts) - 1), np.nan)
        for n, pair in enumerate(pairs):
            for r, row in enumerate(pair):
                if row is not None:
                    table[n, r] = column[starts[r] + row] * figure.scale
        badness = {"high": table, "low": -table, "far": np.abs(table)}[figure.worst]
        whole = np.isfinite(table).all(axis=1)
        edges = np.array(shared["edges"])
        of_run = [column[np.isfinite(column)] * figure.scale for column in np.split(values[figure.key], starts[1:-1])]
        best = badness[whole].argmin(axis=1)
        tied = (badness[whole].max(axis=1) - badness[whole].min(axis=1)) == 0
        out.append(
            shared
            | {
                "counts": [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0].tolist() for v in of_run],
                "median": [float(np.median(v)) if len(v) else None for v in of_run],
                "best": [int(((best == r) & ~tied).sum()) for r in range(table.shape[1])],
                "ties": int(tied.sum()),
                "n": int(whole.sum()),
            }
        )
    return out


def _rows_by_image(table: pa.Table) -> dict[str, list[tuple[int, tuple[float, ...] | None]]]:
    rows: dict[str, list[tuple[int, tuple[float, ...] | None]]] = defaultdict(list)
    seen: set[tuple[str, int | None]] = set()
    columns = (table[name].to_pylist() for name in ("image_sha256", "face_index", "face_box"))
    for row, (sha, index, box) in enumerate(zip(*columns, strict=True)):
        if sha is not None and (sha, index) not in seen:  # copies of one photograph count once
            seen.add((sha, index))
            rows[sha].append((row, None if box is None else tuple(box)))
    return dict(rows)


def _take(rows: dict[int, tuple[float, ...] | None], box: tuple[float, ...] | None) -> int | None:
    """Removes and returns the row whose box is that of the same face; for an image without faces the image's row."""
    if box is None:
        row = next((row for row, other in rows.items() if other is None), None)
    else:
        overlaps = {row: _overlap(box, other) for row, other in rows.items() if other is not None}
        row = max(overlaps, key=lambda r: overlaps[r], default=None)
        row = row if row is not None and overlaps[row] >= _SAME_BOX else None
    if row is not None:
        del rows[row]
    return row


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns intersection over union of two boxes (left, top, right, bottom)."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, wide) * max(0.0, high)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / both if both > 0 else 0.0
