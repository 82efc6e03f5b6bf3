"""How far a reconstructed face lies from the true one: point-to-triangle distances after alignment.

The protocol is that of the NoW benchmark (Sanyal et al., CVPR 2019): the reconstruction is laid onto the scan from
seven landmarks, the alignment is refined until the squared distances of the scan's face are least, and every scan
point within 95 mm of the nose tip takes its distance to the nearest point of the reconstructed surface. With scale
the alignment is a similarity, without it a rigid motion, so that a wrong size counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.typing import NDArray

from raylib.geometry.closest import Closest, MeshSurface, unit
from raylib.geometry.landmarks68 import ALIGNMENT_LANDMARKS, NOSE_TIP
from raylib.geometry.similarity import Alignment

Array = NDArray[Any]

FACE_RADIUS_MM = 95.0

_STEPS = 60
_POINTS = 1500
_STILL = 3e-4  # the alignment is found when a step lowers the squared distances by less than this share
_MIN_DAMPING = 1e-3


def angles_deg(a: Float[ndarray, "n 3"], b: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
    """Returns the angles between unit vectors, degrees."""
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))


@dataclass(frozen=True)
class ScanError:
    """Distances of a scan's points from a reconstruction, millimetres.

    Attributes:
        distances: one for each scan point of the face.
        points: indices of these points in the scan.
        closest: the points of the reconstruction's surface that they were measured to, in its own frame.
        alignment: what laid the reconstruction onto the scan.
    """

    distances: Float[ndarray, " n"]
    points: Int[ndarray, " n"]
    closest: Closest
    alignment: Alignment

    @property
    def median(self) -> float:
        """Median distance."""
        return float(np.median(self.distances))

    @property
    def mean(self) -> float:
        """Mean distance."""
        return float(self.distances.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the distances."""
        return float(self.distances.std())


def refine_alignment(
    surface: MeshSurface, start: Alignment, points: Float[ndarray, "n 3"], with_scale: bool = True
) -> Alignment:
    """Returns the alignment of a surface with least squared distances of points from it, near a first guess.

    Gauss-Newton on the distances, whose derivative is along the line to the closest point; the damping is the
    ordinary step of iterated closest points, which it falls back to where the distances say nothing about sliding.

    Args:
        surface: what is moved.
        start: first guess.
        points: where it is to go; of many an even choice is taken.
        with_scale: whether size may change.
    """
    points = points[np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int)]
    extent = float(np.ptp(points, axis=0).max())

    def measured(alignment: Alignment, near: Array | None) -> tuple[Closest, Array, float]:
        found = surface.closest(alignment.undo(points), near)
        offset = points - alignment.apply(found.point)
        return found, offset, float((offset**2).sum())

    best, damping = start, 0.01
    found, offset, cost = measured(best, None)
    for _ in range(_STEPS):
        at = points - offset
        centre = at.mean(0)
        size = np.linalg.norm(offset, axis=1, keepdims=True)
        flat = face_normals_at(surface, found) @ best.R.T
        along = np.where(size > 1e-9 * extent, offset / np.maximum(size, 1e-30), flat)
        lever = at - centre
        full = np.zeros((len(points), 3, 7 if with_scale else 6))
        full[:, 0, 1], full[:, 0, 2] = lever[:, 2], -lever[:, 1]  # a small turn w moves a point by w x lever
        full[:, 1, 0], full[:, 1, 2] = -lever[:, 2], lever[:, 0]
        full[:, 2, 0], full[:, 2, 1] = lever[:, 1], -lever[:, 0]
        full[:, :, 3:6] = np.eye(3)
        if with_scale:
            full[:, :, 6] = lever
        stacked = full.reshape(-1, full.shape[2])
        normal = np.einsum("nd,ndk->nk", along, full)
        by_distance, by_position = normal.T @ normal, stacked.T @ stacked
        step = np.linalg.solve(by_distance + damping * by_position, stacked.T @ offset.ravel())
        moved = _moved(best, centre, step)
        tried_found, tried_offset, tried = measured(moved, found.face)
        if tried < cost:
            still = cost - tried < _STILL * cost
            best, found, offset, cost = moved, tried_found, tried_offset, tried
            damping = max(damping / 4, _MIN_DAMPING)
            if still:
                break
        else:
            damping *= 8
            if damping > 100:
                break
    return best


def face_normals_at(surface: MeshSurface, found: Closest) -> Float[ndarray, "n 3"]:
    """Returns the unit normals of the triangles in which points of the surface lie."""
    a, b, c = (surface.verts[surface.faces[found.face, k]] for k in range(3))
    return unit(np.cross(b - a, c - a))


def _moved(alignment: Alignment, centre: Array, step: Array) -> Alignment:
    """Returns the alignment followed by a small turn and stretch about `centre` and a shift."""
    angle = float(np.linalg.norm(step[:3]))
    x, y, z = step[:3] / max(angle, 1e-30)
    S = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    R = np.eye(3) + np.sin(angle) * S + (1 - np.cos(angle)) * S @ S
    scale = float(np.exp(step[6])) if len(step) > 6 else 1.0
    T = scale * R @ (alignment.T - centre) + centre + step[3:6]
    return Alignment(scale * alignment.scale, R @ alignment.R, T)


def scan_error(
    verts: Float[ndarray, "v 3"],
    faces: Int[ndarray, "f 3"],
    landmarks: Float[ndarray, "68 3"],
    scan: Float[ndarray, "n 3"],
    scan_landmarks: Float[ndarray, "68 3"],
    with_scale: bool = True,
) -> ScanError:
    """Returns the distances of a scan's face from a reconstruction that was laid onto it.

    Args:
        verts: the reconstruction's vertices, any unit with scale, millimetres without.
        faces: its triangles.
        landmarks: its 68 landmarks; of `ALIGNMENT_LANDMARKS` those are used that neither side leaves NaN.
        scan: the scan's points, millimetres.
        scan_landmarks: the scan's 68 landmarks; only `ALIGNMENT_LANDMARKS` and the nose tip are read.
        with_scale: lay on by a similarity; otherwise by a rigid motion.

    Raises:
        ValueError: fewer than four landmarks are on both sides, or no scan point is near the nose tip.
    """
    return surface_error(MeshSurface(verts, faces), landmarks, scan, scan_landmarks, with_scale)


def surface_error(
    surface: MeshSurface,
    landmarks: Float[ndarray, "68 3"],
    scan: Float[ndarray, "n 3"],
    scan_landmarks: Float[ndarray, "68 3"],
    with_scale: bool = True,
) -> ScanError:
    """Returns `scan_error` for a reconstruction that is prepared already."""
    chosen = np.array(ALIGNMENT_LANDMARKS)
    chosen = chosen[np.isfinite(landmarks[chosen]).all(1) & np.isfinite(scan_landmarks[chosen]).all(1)]
    if len(chosen) < 4:
        raise ValueError(f"{len(chosen)} of the seven landmarks are on both sides, expected at least 4")
    face = scan[face_points(scan, scan_landmarks[NOSE_TIP])]
    start = Alignment.of_points(landmarks[chosen], scan_landmarks[chosen], with_scale)
    alignment = refine_alignment(surface, start, face, with_scale)
    return aligned_error(surface, alignment, scan, scan_landmarks[NOSE_TIP])


def aligned_error(
    surface: MeshSurface, alignment: Alignment, scan: Float[ndarray, "n 3"], nose_tip: Float[ndarray, " 3"]
) -> ScanError:
    """Returns the distances of a scan's face from a reconstruction that an alignment lays onto it.

    Raises:
        ValueError: no scan point is near the nose tip.
    """
    points = face_points(scan, nose_tip)
    closest = surface.closest(alignment.undo(scan[points]))
    return ScanError(alignment.scale * closest.distance, points, closest, alignment)


def face_points(scan: Float[ndarray, "n 3"], nose_tip: Float[ndarray, " 3"]) -> Int[ndarray, " m"]:
    """Returns the indices of the points within `FACE_RADIUS_MM` of the nose tip.

    Raises:
        ValueError: there are none.
    """
    points = np.flatnonzero(np.linalg.norm(scan - nose_tip, axis=1) <= FACE_RADIUS_MM)
    if not len(points):
        raise ValueError(f"no scan point lies within {FACE_RADIUS_MM:g} mm of the nose tip")
    return points
