"""Pictures of the shape report: cumulative curves, heat maps on the mean face, the worst cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import cKDTree

from raylib.evaluation.drawing import draw_pixels, to_bytes
from raylib.evaluation.faces import Prediction, TrueFace
from raylib.evaluation.shape.errors import ShapeErrors
from raylib.geometry.closest import MeshSurface, surface_normals
from raylib.geometry.landmarks68 import ALIGNMENT_LANDMARKS
from raylib.geometry.similarity import Alignment
from raylib.metrics.curves import draw_curves
from raylib.morphable.model import load_prior

PANEL_PX = 220
_VIEW_MM = 215.0  # what a panel shows
_CURVE_END_MM = 4.0
_BACKGROUND = 0.94
_LABEL_PX = 15
_HEAT = np.array([[0.19, 0.25, 0.55], [0.20, 0.60, 0.70], [0.75, 0.85, 0.55], [0.96, 0.70, 0.25], [0.70, 0.09, 0.12]])
_KEY_LIGHT = np.array([0.35, 0.45, 0.82])


@dataclass(frozen=True)
class Case:
    """One face by one method, kept for a picture."""

    face: TrueFace
    prediction: Prediction
    errors: ShapeErrors


class WorstCases:
    """The faces with the largest median distance of each method.

    Args:
        count: how many of each.
    """

    def __init__(self, count: int):
        self._count = count
        self.cases: dict[str, list[Case]] = {}

    def add(self, method: str, case: Case) -> None:
        """Takes a case in and lets go of the one that is no longer among the worst."""
        cases = [*self.cases.get(method, []), case]
        cases.sort(key=lambda c: -float(np.median(c.errors.distances)))
        self.cases[method] = cases[: self._count]


def curves(errors: Mapping[str, Mapping[str, ShapeErrors]]) -> str:
    """Returns an SVG with the share of points, and of faces by their median, within each distance."""
    x = np.linspace(0, _CURVE_END_MM, 81)

    def within(values: Float[np.ndarray, " n"]) -> list[float]:
        return (100 * np.searchsorted(np.sort(values), x, side="right") / len(values)).tolist()

    done = {name: by_face for name, by_face in errors.items() if by_face}
    points = {name: within(np.concatenate([e.distances for e in by.values()])) for name, by in done.items()}
    medians = {name: within(np.array([np.median(e.distances) for e in by.values()])) for name, by in done.items()}
    title = "within a distance in mm of the reconstruction"
    return draw_curves(
        x.tolist(), {f"% of all points {title}": points, f"% of faces whose median is {title}": medians}
    )


def heat_map(errors: Mapping[str, ShapeErrors]) -> Float[np.ndarray, " v"]:
    """Returns the mean distance at each vertex of the prior; a vertex without points takes the nearest one's."""
    n = len(load_prior().mean)
    total, count = np.zeros(n), np.zeros(n)
    for e in errors.values():
        total += np.bincount(e.anchor, e.distances, n)
        count += np.bincount(e.anchor, minlength=n)
    known = np.flatnonzero(count)
    mean = total / np.maximum(count, 1)
    verts = load_prior().mean.numpy()
    return mean[known[cKDTree(verts[known]).query(verts)[1]]]


def heat_maps(errors: Mapping[str, Mapping[str, ShapeErrors]]) -> Image.Image:
    """Returns for each method the mean error on the prior's mean face, from in front and from both sides."""
    prior = load_prior()
    verts, faces = prior.mean.double().numpy(), prior.faces.numpy()
    maps = {name: heat_map(by_face) for name, by_face in errors.items() if by_face}
    top = _rounded(float(np.quantile(np.concatenate(list(maps.values())), 0.97)))
    rows = []
    for name, values in maps.items():
        colors = heat_colors(values, top)
        panels = [_view(verts, faces, colors, yaw) for yaw in (0.0, 45.0, -45.0)]
        rows.append(labelled(np.concatenate(panels, axis=1), name))
    rows.append(_color_bar(rows[0].shape[1], top))
    return Image.fromarray(np.concatenate(rows))


def worst_cases(worst: WorstCases) -> Image.Image | None:
    """Returns rows of picture, truth, reconstruction and error, or None where there is nothing to show."""
    top = _rounded(
        max((float(np.quantile(c.errors.distances, 0.9)) for cs in worst.cases.values() for c in cs), default=0)
    )
    rows = []
    for name, cases in worst.cases.items():
        for case in cases:
            text = f"{name}: {case.face.name}, median {np.median(case.errors.distances):.2f} mm"
            rows.append(labelled(_case_row(case, top), text))
    if not rows:
        return None
    return Image.fromarray(np.concatenate([*rows, _color_bar(rows[0].shape[1], top)]))


def _case_row(case: Case, top: float) -> UInt8[np.ndarray, "p w 3"]:
    """Returns the picture, true and reconstructed shape as clay, and the distance of the one from the other."""
    prior = load_prior()
    face, prediction = case.face, case.prediction
    seven = list(ALIGNMENT_LANDMARKS)
    upright = Alignment.of_points(face.landmarks[seven], prior.mean.double().numpy()[prior.landmark_verts[seven]])
    true = upright.apply(face.verts)
    moved = case.errors.alignment.apply(prediction.verts)
    panels = [np.full((PANEL_PX, PANEL_PX, 3), round(255 * _BACKGROUND), np.uint8)]
    if face.photo is not None:
        photo = Image.fromarray(face.photo.image)
        photo.thumbnail((PANEL_PX, PANEL_PX))
        canvas = Image.fromarray(panels[0])
        canvas.paste(photo, ((PANEL_PX - photo.width) // 2, (PANEL_PX - photo.height) // 2))
        panels = [np.asarray(canvas)]
    clay = np.full(3, 0.72)
    has_faces = len(face.faces) > 0
    blank = np.full((PANEL_PX, PANEL_PX, 3), round(255 * _BACKGROUND), np.uint8)
    panels.append(_view(true, face.faces, np.tile(clay, (len(true), 1)), 25.0) if has_faces else blank)
    panels.append(_view(upright.apply(moved), prediction.faces, np.tile(clay, (len(moved), 1)), 25.0))
    distance = MeshSurface(moved, prediction.faces).distance(face.verts)
    panels.append(_view(true, face.faces, heat_colors(distance, top), 0.0) if has_faces else blank)
    return np.concatenate(panels, axis=1)


def heat_colors(values: Float[np.ndarray, " v"], top: float) -> Float[np.ndarray, "v 3"]:
    """Returns colours from blue for 0 to dark red for `top` and more."""
    at = np.clip(values / max(top, 1e-9), 0, 1) * (len(_HEAT) - 1)
    return np.stack([np.interp(at, np.arange(len(_HEAT)), _HEAT[:, k]) for k in range(3)], axis=1)


def _view(
    verts: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], colors: Float[np.ndarray, "v 3"], yaw_deg: float
) -> UInt8[np.ndarray, "p p 3"]:
    """Returns a mesh in canonical space under a soft light, seen in parallel from `yaw_deg` to the subject's left."""
    yaw = np.deg2rad(yaw_deg)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    lit = 0.45 + 0.55 * np.clip(surface_normals(verts, faces) @ turn.T @ _KEY_LIGHT, 0, 1)
    seen = (verts - [0, -22, 0]) @ turn.T
    scale, size = 2 * PANEL_PX / _VIEW_MM, 2 * PANEL_PX
    depth = 1000 - seen[:, 2]
    pixels = np.stack([seen[:, 0] * scale + size / 2, size / 2 - seen[:, 1] * scale, depth], axis=1)
    drawn = draw_pixels(pixels.astype(np.float32), faces, colors * lit[:, None], (size, size))
    image = np.where(drawn.mask[..., None], drawn.image, _BACKGROUND)
    return to_bytes((image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4)


def labelled(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "l w 3"]:
    """Returns a picture with a line of text above it."""
    strip = Image.new("RGB", (picture.shape[1], _LABEL_PX + 6), "white")
    ImageDraw.Draw(strip).text((4, 2), text, fill=(30, 30, 30), font=ImageFont.load_default(_LABEL_PX - 2))
    return np.concatenate([np.asarray(strip), picture])


def _color_bar(width: int, top: float) -> UInt8[np.ndarray, "h w 3"]:
    bar = np.repeat(heat_colors(np.linspace(0, top, width), top)[None], 14, axis=0)
    return labelled(to_bytes(bar), f"colours from 0 to {top:g} mm and more")


def _rounded(value: float) -> float:
    """Returns the value rounded up to one significant half step."""
    step = 10 ** np.floor(np.log10(max(value, 1e-6))) / 2
    return float(np.ceil(value / step) * step)
