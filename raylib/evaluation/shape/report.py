"""The shape report: errors pooled over faces with bootstrap intervals, beside those of the mean face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from raylib.evaluation.shape.errors import FIGURES, ShapeErrors
from raylib.evaluation.shape.regions import FACE_REGIONS
from raylib.metrics.bootstrap import bootstrap_draws, measure, text, text_interval

_BIN_MM = 0.01
_LAST_BIN_MM = 40.0


class _Pool:
    """Distances of several faces: pooled over all points, for the faces themselves and for bootstrap draws of them.

    Args:
        distances: of each face.
        draws: how often each face is in each resample.
    """

    def __init__(self, distances: list[Float[np.ndarray, " n"]], draws: Float[np.ndarray, "r f"]):
        every = np.concatenate(distances).astype(np.float64)
        counts = np.stack([np.histogram(np.minimum(d, _LAST_BIN_MM), _edges())[0] for d in distances])
        n = np.array([len(d) for d in distances], dtype=np.float64)
        total = np.array([d.sum(dtype=np.float64) for d in distances])
        squares = np.array([np.square(d, dtype=np.float64).sum() for d in distances])
        drawn_n, drawn_total, drawn_squares = (draws @ per_face for per_face in (n, total, squares))
        mean = drawn_total / drawn_n
        self.median, self.medians = (
            float(np.median(every)),
            _medians(draws.astype(np.float32) @ counts.astype(np.float32)),
        )
        self.mean, self.means = float(every.mean()), mean
        self.std, self.stds = float(every.std()), np.sqrt(np.maximum(drawn_squares / drawn_n - mean**2, 0))


def _edges() -> Float[np.ndarray, " e"]:
    return np.append(np.arange(0, _LAST_BIN_MM, _BIN_MM), np.inf)


def _medians(counts: Float[np.ndarray, "r c"]) -> Float[np.ndarray, " r"]:
    """Returns the median of each histogram, interpolated within its bin."""
    below = np.cumsum(counts, axis=1, dtype=np.float64)
    half = below[:, -1:] / 2
    at = (below >= half).argmax(1)
    rows = np.arange(len(counts))
    inside = counts[rows, at].astype(np.float64)
    missing = half[:, 0] - (below[rows, at] - inside)
    return (at + missing / np.maximum(inside, 1)) * _BIN_MM


def _ratio(mine: float, mine_drawn: Any, reference: float, reference_drawn: Any) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return measure(
            mine / reference if reference else float("nan"), np.asarray(mine_drawn) / np.asarray(reference_drawn)
        )


def summarise(
    method: Mapping[str, ShapeErrors], reference: Mapping[str, ShapeErrors], resamples: int, seed: int
) -> dict[str, Any]:
    """Returns a method's figures over its faces with 95 % intervals, each with its ratio to the reference's.

    Both are drawn together, so that the interval of a ratio is that of paired faces.

    Args:
        method: errors by face, at least one.
        reference: errors of the mean face; has every face of `method`.
        resamples: bootstrap draws of faces.
        seed: of the draws.
    """
    names = sorted(method)
    draws = bootstrap_draws(len(names), resamples, seed).astype(np.float64)
    out: dict[str, Any] = {"faces": len(names)}
    for key, field in (("scan_to_mesh", "distances"), ("scan_to_mesh_rigid", "distances_rigid")):
        mine = _Pool([getattr(method[name], field) for name in names], draws)
        base = _Pool([getattr(reference[name], field) for name in names], draws)
        out[key] = {
            "median": measure(mine.median, mine.medians),
            "mean": measure(mine.mean, mine.means),
            "std": measure(mine.std, mine.stds),
            "ratio": _ratio(mine.median, mine.medians, base.median, base.medians),
        }
    for figure in FIGURES:
        values = np.array([[errors[name].figures[figure] for name in names] for errors in (method, reference)])
        known = np.isfinite(values[0])
        weights = draws * known
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (weights @ np.where(known, values[0], 0.0)) / weights.sum(1)
        mean = float(values[0, known].mean()) if known.any() else float("nan")
        # The mean face may lack a figure, say the pose, where landmarks were not found: compare where both have it.
        both = known & np.isfinite(values[1])
        paired = draws @ np.where(both, values, 0.0).T
        sums = np.where(both, values, 0.0).sum(1)
        ratio = _ratio(sums[0], paired[:, 0], sums[1], paired[:, 1])
        out[figure] = {**measure(mean, drawn), "faces": int(known.sum()), "ratio": ratio}
    return out


YAW_BANDS_DEG = ((0.0, 15.0), (15.0, 35.0), (35.0, 90.0))


def by_yaw(
    method: Mapping[str, ShapeErrors], reference: Mapping[str, ShapeErrors], resamples: int, seed: int
) -> dict[str, Any]:
    """Returns faces, median and ratio of `summarise`'s scan to mesh for each band of head turns that occurs."""
    bands = {}
    for low, high in YAW_BANDS_DEG:
        own = {name: e for name, e in method.items() if low <= abs(e.yaw_deg) < high}
        if own:
            figures = summarise(own, reference, resamples, seed)
            bands[f"{low:g} to {high:g}"] = {"faces": len(own), **figures["scan_to_mesh"]}
    return bands


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(r) + " |" for r in rows),
        "",
    ]


def _with_ratio(figure: dict[str, Any], digits: int = 2) -> str:
    return "-" if figure["value"] is None else f"{text(figure, digits)} ({text(figure['ratio'], 2)})"


def _distance_table(methods: dict[str, Any], key: str) -> list[str]:
    head = ["method", "faces", "median, mm", "95 %", "mean", "std", "ratio to the mean face", "95 %"]
    rows = []
    for name, m in methods.items():
        d = m[key]
        faces = f"{m['faces']}" + (f" of {m['faces'] + m['missing']}" if m["missing"] else "")
        rows.append([name, faces, text(d["median"], 2), text_interval(d["median"], 2), text(d["mean"], 2)])
        rows[-1] += [text(d["std"], 2), text(d["ratio"], 2), text_interval(d["ratio"], 2)]
    return _table(head, rows)


def _of_band(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    return f"{text(figures['median'], 2)} ({text(figures['ratio'], 2)}), {figures['faces']}"


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as Markdown tables."""
    methods = report["methods"]
    lines = [f"# Shape of {report['faces']} faces", ""]
    lines += [
        "Every figure is over the faces that a method reconstructed; its ratio is to the mean face of the shipped "
        "prior over the same faces. Intervals are bootstrap intervals over faces.",
        "",
        "## Scan to mesh",
        "",
        "Distance of the points within 95 mm of the nose tip from the reconstructed surface, over all points of all "
        "faces, after a similarity:",
        "",
        *_distance_table(methods, "scan_to_mesh"),
        "After a rigid motion, so that size counts:",
        "",
        *_distance_table(methods, "scan_to_mesh_rigid"),
    ]
    if report["common"]:
        lines += [f"Similarity, on the {report['common']['faces']} faces that all methods reconstructed:", ""]
        lines += _distance_table(report["common"]["methods"], "scan_to_mesh")
    if any(m["by_yaw"] for m in methods.values()):
        bands = list(dict.fromkeys(band for m in methods.values() for band in m["by_yaw"]))
        lines += ["By the head's turn in degrees: median in mm (ratio), number of faces.", ""]
        cells = {name: [_of_band(m["by_yaw"].get(band)) for band in bands] for name, m in methods.items()}
        lines += _table(["method", *bands], [[name, *row] for name, row in cells.items()])
    dense = ("vertex_mm", "vertex_normals_deg", "normals_deg", "surface")
    head = ["method", "vertex to vertex, mm", "normals of vertices, degrees", "normals at the nearest point, degrees"]
    head.append("surface, times the truth's")
    lines += [
        "## Vertices and normals",
        "",
        "Means, with the ratio to the mean face in brackets. Surface is the area within 95 mm of the nose tip: "
        "scan to mesh asks only whether some surface is near, and where there is much more of it than in truth, or "
        "normals are far off, a small distance means little.",
        "",
    ]
    lines += _table(head, [[name, *(_with_ratio(m[key]) for key in dense)] for name, m in methods.items()])
    lines += ["## Regions", "", "Mean distance in mm after each region was aligned by itself (ratio).", ""]
    rows = [[name, *(_with_ratio(m[key]) for key in (*FACE_REGIONS, "regions"))] for name, m in methods.items()]
    lines += _table(["method", *FACE_REGIONS, "mean of the four"], rows)
    if any(m["pose_deg"]["value"] is not None for m in methods.values()):
        lines += ["## Pose and landmarks", ""]
        lines += ["Landmark error in % of the distance of the outer eye corners (ratio).", ""]
        rows = []
        for name, m in methods.items():
            nme = m["landmark_nme"]
            scaled = {**nme, "value": None if nme["value"] is None else 100 * nme["value"]}
            rows.append([name, str(m["pose_deg"]["faces"]), _with_ratio(m["pose_deg"]), _with_ratio(scaled)])
        lines += _table(["method", "faces with a pose", "pose, degrees", "landmarks, %"], rows)
    return "\n".join(lines)
