"""The table of a run as the page lists it: totals, distributions and one entry a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from raylib.config import FAILED
from raylib.io.storage import Location
from raylib.reconstruction.finished import parts
from raylib.reconstruction.schema import SCHEMA, STAGES


@dataclass(frozen=True)
class Figure:
    """A number of each row that the page sorts and filters by and whose distribution it draws.

    Attributes:
        key: name of the column, or of what is derived from it.
        label: what a reader calls it.
        short: the same beside a number.
        unit: of the numbers shown, after `scale`.
        scale: factor from the column to what is shown.
        worst: which end is worst: "high", "low" or "far" (from zero).
        meaning: one sentence.
    """

    key: str
    label: str
    short: str
    unit: str
    scale: float
    worst: str
    meaning: str


FIGURES = (
    Figure(
        "landmark_nme",
        "Landmark error",
        "error",
        "%",
        100.0,
        "high",
        "fitted to detected ones, of the eye distance",
    ),
    Figure(
        "quality", "Quality", "quality", "", 1.0, "low", "how probably the reconstruction shows one face as it is"
    ),
    Figure("photometric_psnr", "Photometric PSNR", "PSNR", "dB", 1.0, "low", "rendered face against the photograph"),
    Figure("sigma_mean_mm", "Uncertainty", "sigma", "mm", 1.0, "high", "mean sigma of the vertices"),
    Figure("yaw_deg", "Yaw", "yaw", "°", 1.0, "far", "positive where the subject turns to its own left"),
    Figure("pitch_deg", "Pitch", "pitch", "°", 1.0, "far", "positive where the subject looks up"),
    Figure("roll_deg", "Roll", "roll", "°", 1.0, "far", "positive where the head tilts clockwise in the picture"),
    Figure("occlusion", "Covered", "covered", "%", 100.0, "high", "share of the face that something covers"),
    Figure("seen", "Seen", "seen", "%", 100.0, "low", "vertices whose colour comes from the photograph itself"),
    Figure("landmark_spread", "Landmark spread", "spread", "%", 100.0, "high", "how landmarks move with the box"),
    Figure("detector_score", "Detector score", "score", "", 1.0, "low", "the detector's own scale"),
    Figure("face_px", "Face size", "wide", "px", 1.0, "low", "longer side of the detection box"),
    Figure("seconds", "Time", "in all", "s", 1.0, "high", "seconds in all stages"),
)

_TEXT = ("status", "error_stage", "detector", "method", "morphable_model")
_FILES = ("obj_uri", "glb_uri", "texture_uri", "preview_uri")
_LIGHT = (
    *("image_uri", "image_sha256", "width", "height", "face_index", "face_id", "error_message", "face_box"),
    *(_TEXT + _FILES),
    *("quality", "detector_score", "landmark_spread", "occlusion", "yaw_deg", "pitch_deg", "roll_deg"),
    *("landmark_nme", "landmark_error_px", "photometric_psnr"),
    *(f"seconds_{stage}" for stage in STAGES),
)
_BINS = 24
_NEAR = 1e-6  # of a bar's width
_FAILED_SHARE = 0.25  # of the listed rows, where not all can be listed


def read_index(output: Location) -> pa.Table:
    """Returns the columns of all rows that the page lists, in the fixed order of the parts.

    Means of the heavy columns are taken part by part, so that a large run fits into memory.

    Raises:
        KeyError: the parts lack a column of this job's rows.
    """
    tables = []
    for table in read_parts(output, [*_LIGHT, "sigma_mm", "vertex_source"]):
        source = table["vertex_source"].combine_chunks()
        seen = pc.equal(pc.list_flatten(source), 0)
        means = {
            "sigma_mean_mm": _list_means(table["sigma_mm"].combine_chunks()),
            "seen": _means(np.asarray(pc.cast(seen, pa.float64())), source),
        }
        light = table.select(_LIGHT)
        for name, values in means.items():
            light = light.append_column(name, pa.array(values, from_pandas=True))
        tables.append(light)
    if not tables:
        empty = {name: pa.array([], pa.string()) for name in _LIGHT}
        return pa.table(empty | {n: pa.array([], pa.float64()) for n in ("sigma_mean_mm", "seen")})
    return pa.concat_tables(tables)


def read_parts(output: Location, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yields columns of each part in a fixed order; those that an older version of the job did not write are null.

    Raises:
        KeyError: the parts lack what rows of this job have always had.
    """
    files = output.list_files("faces", ".parquet")
    if not files:
        return
    written = set(pq.read_schema(files[0], filesystem=output.filesystem).names)
    lacking = {"image_uri", "status", "face_index", "face_id"} - written
    if lacking:
        raise KeyError(f"columns {sorted(lacking)} are not in the rows")
    for _, table in parts(output, [name for name in columns if name in written]):
        for name in columns:
            if name not in written:
                table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
        yield table.select(list(columns))


def figure_values(table: pa.Table) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns each figure of each row, NaN where the row has none; figures that no row has are left out."""
    values = {}
    for figure in FIGURES:
        if figure.key == "seconds":
            columns = [np.nan_to_num(_numbers(table, f"seconds_{stage}")) for stage in STAGES]
            got = np.sum(columns, axis=0)
        elif figure.key == "face_px":
            got = _box_sides(table)
        else:
            got = _numbers(table, figure.key)
        if np.isfinite(got).any():
            # Four digits, as the page has them: it must count in each bar what is counted here.
            values[figure.key] = np.array([float(f"{value:.4g}") for value in got])
    return values


def totals(table: pa.Table) -> dict[str, Any]:
    """Returns counts of images by status, faces, images by number of faces, and seconds a stage."""
    status = np.array(table["status"].to_pylist(), dtype=object)
    index = np.array([-1 if i is None else i for i in table["face_index"].to_pylist()], dtype=np.int64)
    first = index <= 0
    ok = (status == "ok") & (index >= 0)
    uris = table["image_uri"].to_pylist()
    faces_of = Counter(uri for uri, has in zip(uris, index >= 0, strict=True) if has)
    seconds = {}
    for stage in STAGES:
        values = np.nan_to_num(_numbers(table, f"seconds_{stage}"))
        # What an image's faces share stands in each of their rows.
        shared = stage in STAGES[:3]
        seconds[stage] = float(values[first].sum() if shared else values.sum())
    return {
        "rows": len(status),
        "images": int(first.sum()),
        "faces": int(ok.sum()),
        "images_by_status": dict(Counter(status[first].tolist())),
        "rows_by_status": dict(Counter(status.tolist())),
        "images_with_several_faces": sum(count > 1 for count in faces_of.values()),
        "seconds": seconds,
    }


def distributions(values: dict[str, Float[np.ndarray, " n"]]) -> list[dict[str, Any]]:
    """Returns a histogram with count, median and 95th percentile of each figure, over all rows."""
    out = []
    for figure in FIGURES:
        if figure.key not in values:
            continue
        finite = values[figure.key][np.isfinite(values[figure.key])] * figure.scale
        low, high = float(finite.min()), float(finite.max())
        # A few far outliers must not press everything else into one bar: they share the outermost bars.
        inner_low, inner_high = np.quantile(finite, [0.005, 0.995])
        inner_high = inner_high if inner_high > inner_low else inner_low + max(abs(inner_low), 1.0) * 0.01
        edges = np.linspace(inner_low, inner_high, _BINS + 1)
        edges[0], edges[-1] = min(low, edges[0]), max(high, edges[-1])
        edges = np.array([float(f"{edge:.5g}") for edge in edges])
        near = _NEAR * (edges[1:] - edges[:-1]).min()  # the page counts with the same tolerance
        counts, _ = np.histogram(np.clip(finite + near, edges[0], edges[-1]), edges)
        out.append(
            {
                **asdict(figure),
                "edges": edges.tolist(),
                "counts": counts.tolist(),
                "n": len(finite),
                "median": float(np.median(finite)),
                "p95": float(np.quantile(np.abs(finite) if figure.worst == "far" else finite, 0.95)),
            }
        )
    return out


def choose(table: pa.Table, values: dict[str, Float[np.ndarray, " n"]], limit: int) -> Int[np.ndarray, " m"]:
    """Returns the rows to list, in order: all, or of too many the worst, some failed ones and an even sample."""
    n = table.num_rows
    if n <= limit:
        return np.arange(n)
    status = np.array(table["status"].to_pylist(), dtype=object)
    failed = np.flatnonzero(np.isin(status, FAILED))
    failed = failed[np.linspace(0, len(failed) - 1, min(len(failed), int(limit * _FAILED_SHARE))).astype(int)]
    error = np.nan_to_num(values.get("landmark_nme", np.zeros(n)), nan=-1.0)
    worst = np.argsort(-error, kind="stable")[: (limit - len(failed)) // 2]
    chosen = np.union1d(failed, worst)
    rest = np.setdiff1d(np.arange(n), chosen)
    sample = rest[np.linspace(0, len(rest) - 1, limit - len(chosen)).astype(int)] if limit > len(chosen) else rest[:0]
    return np.union1d(chosen, sample)


def entries(
    table: pa.Table, values: dict[str, Float[np.ndarray, " n"]], chosen: Int[np.ndarray, " m"]
) -> dict[str, Any]:
    """Returns the listed rows column by column; repeated texts stand once and are referred to by number."""
    listed = table.take(pa.array(chosen))
    out: dict[str, Any] = {"count": len(chosen)}
    uris = listed["image_uri"].to_pylist()
    folders, names = zip(*(_split(uri) for uri in uris), strict=True) if uris else ((), ())
    out["folder"], out["name"] = _coded(folders), list(names)
    for name in _TEXT:
        out[name] = _coded(listed[name].to_pylist())
    out["message"] = _coded(listed["error_message"].to_pylist())
    for name in ("face_index", "face_id", "width", "height"):
        out[name] = listed[name].to_pylist()
    out["files"] = [
        sum(1 << bit for bit, uri in enumerate(row) if uri)
        for row in zip(*(listed[name].to_pylist() for name in _FILES), strict=True)
    ]
    out["figures"] = {
        key: [float(v) if np.isfinite(v) else None for v in column[chosen]] for key, column in values.items()
    }
    return out


def _coded(texts: Any) -> dict[str, Any]:
    """Returns distinct texts, and for each entry its number among them, -1 for none."""
    known: dict[str, int] = {}
    codes = [-1 if text is None else known.setdefault(text, len(known)) for text in texts]
    return {"texts": list(known), "codes": codes}


def _split(uri: str) -> tuple[str, str]:
    folder, slash, name = uri.rpartition("/")
    return folder + slash, name


def _numbers(table: pa.Table, name: str) -> Float[np.ndarray, " n"]:
    return np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), dtype=np.float64)


def _box_sides(table: pa.Table) -> Float[np.ndarray, " n"]:
    sides = np.full(table.num_rows, np.nan)
    for row, box in enumerate(table["face_box"].to_pylist()):
        if box is not None and len(box) == 4:
            sides[row] = max(box[2] - box[0], box[3] - box[1])
    return sides


def _list_means(column: pa.Array) -> Float[np.ndarray, " n"]:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    return _means(np.asarray(pc.list_flatten(column), dtype=np.float64), column)


def _means(flat: Float[np.ndarray, " m"], column: pa.Array) -> Float[np.ndarray, " n"]:
    """Returns the mean of each list's entries in `flat`, NaN for a list that is null or empty."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(owner, flat, minlength=len(lengths))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, sums / lengths, np.nan)
