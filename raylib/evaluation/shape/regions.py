"""Places on a face: the regions of the report, and which vertex of the shipped prior a point stands for."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from raylib.evaluation.faces import TrueFace
from raylib.geometry.closest import MeshSurface
from raylib.geometry.landmarks68 import NOSE_TIP
from raylib.metrics.scan_error import FACE_RADIUS_MM, scan_error
from raylib.morphable.model import REGIONS, load_prior

Array = NDArray[Any]

FACE_REGIONS = ("nose", "mouth", "forehead", "cheek")
"""The regions of the REALY benchmark (Chai et al., ECCV 2022)."""

_MOUTH_MARGIN_MM = 10.0
_LOWER_LID_MARGIN_MM = 4.0


@lru_cache(maxsize=1)
def prior_regions() -> Int[np.ndarray, " v"]:
    """Returns for each vertex of the shipped prior its index in `FACE_REGIONS`, -1 outside of all.

    Nose: the prior's own label. Mouth: the lips and 10 mm around them. Forehead: above the brows. Cheek: from the
    lower lids to the level of the mouth's lower edge, beside nose and mouth. Eyes, inner mouth and chin are in none.
    """
    prior = load_prior()
    assert prior.regions is not None
    verts, label = prior.mean.double().numpy(), prior.regions.numpy()
    marks = verts[prior.landmark_verts.numpy()]
    x, y = np.abs(verts[:, 0]), verts[:, 1]
    out = np.full(len(verts), -1)
    skin = np.isin(label, [REGIONS.index(name) for name in ("skin", "brow", "upper_lip", "lower_lip")])
    skin &= np.linalg.norm(verts - marks[NOSE_TIP], axis=1) <= FACE_RADIUS_MM
    nose = label == REGIONS.index("nose")
    low, high = marks[57, 1] - _MOUTH_MARGIN_MM, marks[33, 1]
    mouth = skin & (y > low) & (y < high) & (x < abs(marks[48, 0]) + _MOUTH_MARGIN_MM)
    brows = marks[17:22]
    by_side = np.argsort(np.abs(brows[:, 0]))
    brow_line = np.interp(x, np.abs(brows[by_side, 0]), brows[by_side, 1])
    lid = marks[[40, 41], 1].min() - _LOWER_LID_MARGIN_MM
    out[skin & (y < lid) & (y > low)] = FACE_REGIONS.index("cheek")
    out[skin & (y > brow_line)] = FACE_REGIONS.index("forehead")
    out[mouth] = FACE_REGIONS.index("mouth")
    out[nose] = FACE_REGIONS.index("nose")
    return out


@lru_cache(maxsize=4)
def surface_samples(count: int, seed: int = 0) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Returns points spread evenly over the shipped prior's surface as triangles and barycentric coordinates.

    The inside of the mouth, where no scan has points, is left out.
    """
    prior = load_prior()
    assert prior.regions is not None
    faces, verts = prior.faces.numpy(), prior.mean.double().numpy()
    outside = ~(prior.regions.numpy()[faces] == REGIONS.index("inner_mouth")).any(1)
    a, b, c = (verts[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * outside
    rng = np.random.default_rng(seed)
    # One point in each of `count` equal shares of the area, so that the points are spread evenly.
    at = (np.arange(count) + rng.random(count)) / count * area.sum()
    face = np.minimum(np.searchsorted(np.cumsum(area), at, side="right"), len(faces) - 1)
    u, v = rng.random((2, count))
    root = np.sqrt(u)
    return face, np.stack([1 - root, root * (1 - v), root * v], axis=1)


def anchors(scan: Float[np.ndarray, "n 3"], landmarks: Float[np.ndarray, "68 3"]) -> Int[np.ndarray, " n"]:
    """Returns for each point of a scan the vertex of the prior's mean face that lies there after alignment."""
    prior = load_prior()
    verts, faces = prior.mean.double().numpy(), prior.faces.numpy()
    fitted = scan_error(verts, faces, verts[prior.landmark_verts.numpy()], scan, landmarks)
    found = MeshSurface(verts, faces).closest(fitted.alignment.undo(scan))
    return faces[found.face, found.bary.argmax(1)]


def region_points(face: TrueFace) -> dict[str, Int[np.ndarray, " m"]]:
    """Returns the indices of a face's scan points in each region."""
    near = np.linalg.norm(face.scan - face.landmarks[NOSE_TIP], axis=1) <= FACE_RADIUS_MM
    region = np.where(near, prior_regions()[face.anchor], -1)
    return {name: np.flatnonzero(region == index) for index, name in enumerate(FACE_REGIONS)}
