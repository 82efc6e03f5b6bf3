"""Canonical face space for linear models that come in frames of their own, and what is derived there.

- Unit: the power of ten that brings the mean's largest extent to 0.1 .. 1 m, so that micrometres (BFM 2009),
  millimetres (SFM, BFM 2017 and 2019), centimetres (ICT-FaceKit) and metres all end in millimetres.
- Orientation: the origin goes to the midpoint of the outer eye corners of the mean, the corners onto the x axis,
  and the head is turned about that axis until the mouth corners lie in the direction they have in ICT-FaceKit, so
  that yaw, pitch and roll mean the same whichever model was fitted.
- Triangles counter-clockwise seen from outside, identity modes of one standard deviation.
- Jaw: one line of candidate vertices for each of the landmarks 0..16 (`jaw_lines`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raylib.geometry.landmarks68 import MOUTH_CORNERS, OUTER_EYE
from raylib.geometry.similarity import similarity
from raylib.morphable.model import LinearFaceModel

Array = NDArray[Any]

MOUTH_LEAN_DEG = 12.8
"""How far the line from the outer eye corners to the mouth corners (midpoints) leans out of the face in
ICT-FaceKit's mean, degrees; fixes the zero of pitch."""

_JAW_LINE_POINTS = 14
_JAW_LINE_END = 0.25  # a jaw line ends at this share of the landmark's distance from the plane of symmetry
_JAW_MAX_YAW_DEG = 65.0


def canonical_model(
    *,
    name: str,
    mean: Array,
    faces: Array,
    identity: Array,
    expression: Array,
    expression_bounds: tuple[float, float],
    landmark_verts: Array,
    jaw_verts: Array,
    uv: Array | None,
    files: list[Path],
) -> LinearFaceModel:
    """Returns the model in canonical space and millimetres; see the head of this module.

    Args:
        name: short name for the rows.
        mean: (v, 3) mean face with about canonical axes, in any power-of-ten unit of length.
        faces: (f, 3) triangles in either winding.
        identity: (k, v, 3) displacement of one standard deviation a mode.
        expression: (e, v, 3) displacement of a unit coefficient a mode.
        expression_bounds: lowest and highest expression coefficient.
        landmark_verts: (68,) vertices, -1 where the model has none; the corners of eyes and mouth are needed.
        jaw_verts: (17,) vertices of the jaw line in a frontal view.
        uv: (v, 2) texture coordinates or None.
        files: what is hashed into `sha256`.

    Raises:
        ValueError: shapes or indices do not fit together.
    """
    n = len(mean)
    if identity.shape[1:] != (n, 3) or expression.shape[1:] != (n, 3):
        raise ValueError(f"its modes have shapes {identity.shape} and {expression.shape} where the mean has {n} rows")
    if len(faces) == 0 or faces.min() < 0 or max(faces.max(), landmark_verts.max(), jaw_verts.max()) >= n:
        raise ValueError(f"triangles or landmarks point outside of its {n} vertices")
    unit = millimetre_scale(mean)
    mean = mean * unit
    eyes, mouth = mean[landmark_verts[list(OUTER_EYE)]], mean[landmark_verts[list(MOUTH_CORNERS)]]
    origin = eyes.mean(0)
    x: Array = (eyes[1] - eyes[0]) / np.linalg.norm(eyes[1] - eyes[0])
    down = mouth.mean(0) - origin
    down -= x * (down @ x)
    down /= np.linalg.norm(down)
    lean = np.deg2rad(MOUTH_LEAN_DEG)
    # In canonical space `down` is (0, -cos lean, sin lean); its normal in the plane of symmetry points outwards.
    outwards: Array = np.cross(down, x)
    y = -np.cos(lean) * down + np.sin(lean) * outwards
    z: Array = np.cross(x, y)
    axes = np.stack([x, y, z])
    mean = (mean - origin) @ axes.T
    a, b, c = (mean[faces[:, i]] for i in range(3))
    volume = (np.cross(b - a, c - a) * ((a + b + c) / 3 - mean.mean(0))).sum()
    return LinearFaceModel(
        name=name,
        mean=torch.tensor(mean, dtype=torch.float32),
        faces=torch.tensor(faces if volume > 0 else faces[:, ::-1].copy(), dtype=torch.int64),
        identity=torch.tensor(identity * unit @ axes.T, dtype=torch.float32),
        expression=torch.tensor(expression * unit @ axes.T, dtype=torch.float32),
        expression_bounds=torch.tensor([expression_bounds] * len(expression), dtype=torch.float32).reshape(-1, 2),
        landmark_verts=torch.tensor(landmark_verts, dtype=torch.int64),
        contour_verts=torch.tensor(jaw_lines(mean, jaw_verts), dtype=torch.int64),
        mirror_verts=torch.tensor(cKDTree(mean).query(mean * [-1.0, 1.0, 1.0])[1], dtype=torch.int64),
        uv=None if uv is None else torch.tensor(uv, dtype=torch.float32),
        sha256=_sha256(files),
    )


def jaw_lines(mean: Array, jaw_verts: Array) -> Array:
    """Returns for each jaw landmark the vertices over which the visible outline passes as the head turns away.

    Row i holds the landmark's own vertex, then for growing yaw the outermost vertex of the level section of the
    face through it: the far side's outline moves along that section towards the nose (landmark marching; Zhu et al.,
    "High-fidelity pose and expression normalization", CVPR 2015). Landmark 8, the chin, stays.

    Args:
        mean: (v, 3) mean face in canonical space, millimetres.
        jaw_verts: (17,) vertices of the jaw line in a frontal view.

    Returns:
        (17, 14) vertices, padded with -1.
    """
    yaw = np.deg2rad(np.linspace(0.0, _JAW_MAX_YAW_DEG, _JAW_LINE_POINTS - 1))
    outwards = np.stack([np.cos(yaw), np.sin(yaw)])
    rows = np.full((17, _JAW_LINE_POINTS), -1)
    rows[:, 0] = jaw_verts
    for i in (*range(8), *range(9, 17)):
        start = mean[jaw_verts[i]]
        x = mean[:, 0] * np.sign(start[0])
        # In front of the landmark (the ear and the back of the head lie behind), off the nose and mouth.
        section = np.flatnonzero(
            (np.abs(mean[:, 1] - start[1]) < 4.0) & (mean[:, 2] >= start[2]) & (x >= _JAW_LINE_END * abs(start[0]))
        )
        if len(section):
            reach = np.stack([x[section], mean[section, 2]], axis=1) @ outwards
            rows[i, 1:] = section[reach.argmax(0)]
    return rows


def millimetre_scale(mean: Array) -> float:
    """Returns the power of ten that brings the largest extent to 100 .. 1000 mm."""
    extent = float(np.ptp(mean, axis=0).max()) if len(mean) else 0.0
    if not (np.isfinite(extent) and extent > 0):
        raise ValueError("its mean face has no extent")
    return float(10.0 ** (2 - np.floor(np.log10(extent))))


def transfer_landmarks(reference: LinearFaceModel, mean: Array) -> Array:
    """Returns the vertices of `mean` that lie on the landmarks of `reference`, for models without a landmark map.

    The reference's mean face is laid onto `mean` by a similarity (iterated closest points, the farthest fifth of the
    pairs left out, started with both nose tips together); each landmark takes the nearest vertex.

    Args:
        reference: model with landmark vertices, in canonical space.
        mean: (v, 3) mean face in millimetres with about canonical axes, at any position.
    """
    source = reference.mean.numpy().astype(np.float64)
    marks = source[reference.landmark_verts.numpy()]
    nose = marks[30]
    face = source[np.linalg.norm(source - nose, axis=1) < 95.0]
    # The nose tip is the foremost vertex near the plane of symmetry.
    middle = np.abs(mean[:, 0] - np.median(mean[:, 0])) < 15.0
    tip = mean[middle][mean[middle, 2].argmax()]
    scale, R, T = 1.0, np.eye(3), tip - nose
    tree: Any = cKDTree(mean)
    for _ in range(60):
        moved = scale * face @ R.T + T
        distance, nearest = tree.query(moved)
        keep = distance <= np.quantile(distance, 0.8)
        scale, R, T = similarity(face[keep], mean[nearest[keep]])
    distance, nearest = tree.query(scale * marks @ R.T + T)
    if np.median(distance) > 8.0:
        raise ValueError("its mean is not a face with +y up and +z out of the face")
    return np.asarray(nearest)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
