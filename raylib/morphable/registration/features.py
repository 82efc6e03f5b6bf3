"""Feature lines of the face and the edges of the template that are laid along them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from raylib.morphable.registration.relax import Chart, Curve
from raylib.morphable.registration.source import HalfSurface

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEFT_LANDMARKS = (*range(8, 17), *range(22, 31), *range(33, 36), *range(42, 48), *range(51, 58), *range(62, 67))
"""Landmarks of the face's left half, those on the midline included."""

MIDLINE_LANDMARKS = (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)

SIZES = (
    # wished edge length at the feature, mm (relative: the number of vertices is given), landmarks of the line
    (0.85, (42, 43, 44, 45, 46, 47, 42)),
    (0.85, (62, 63, 64, 65, 66)),
    (0.8, (54, 64)),
    (1.2, (51, 52, 53, 54, 55, 56, 57)),
    (1.2, (33, 34, 35)),
    (1.9, (27, 28, 29, 30)),
    (3.2, (22, 23, 24, 25, 26)),
    (3.5, (8, 9, 10, 11)),
    (4.5, (11, 12, 13)),
)
NOSE_WING_MM = ((15.0, -38.0, 25.0), (17.0, -42.0, 20.0))
NOSE_WING_SIZE_MM = 1.8
RIM_SIZE_MM = 7.0
GROWTH = 0.2
LARGEST_MM = 9.0

UPPER_SKIP, LOWER_SKIP = 4, 7
"""Vertices of the lids' edge left out on either side of the caruncle."""

LID_THICKNESS_MM = 1.15
"""Width of the lid's edge, from the eyeball to the lashes."""


@dataclass(frozen=True)
class FeatureLine:
    """A curve on the source that a chain of the template's edges shall follow.

    Attributes:
        curve: the line.
        landmarks: numbers of the landmarks on it.
        around: number of the line that this one surrounds at one triangle's distance, or -1.
    """

    curve: Curve
    landmarks: tuple[int, ...]
    around: int = -1


def landmark_verts(surface: HalfSurface, ict_landmarks: tuple[int, ...]) -> dict[int, int]:
    """Returns the source vertex of each landmark of the left half."""
    where = {int(v): i for i, v in enumerate(surface.ict_vertex) if v >= 0}
    return {k: where[ict_landmarks[k]] for k in LEFT_LANDMARKS}


def wished_sizes(surface: HalfSurface, landmarks: dict[int, int]) -> Floats:
    """Returns the wished edge length at each source vertex, millimetres: small at eyes, lips and nostrils."""
    h = np.full(len(surface.verts), LARGEST_MM)
    lines = [(size, surface.verts[[landmarks[k] for k in line]]) for size, line in SIZES]
    lines += [(NOSE_WING_SIZE_MM, np.array(NOSE_WING_MM)), (RIM_SIZE_MM, surface.verts[surface.rim])]
    for size, line in lines:
        t = np.linspace(0, 1, 20)[:, None]
        dense = np.concatenate([a + t * (b - a) for a, b in itertools.pairwise(line)])
        h = np.minimum(h, size + GROWTH * cKDTree(dense).query(surface.verts)[0])
    return h


def feature_lines(surface: HalfSurface, chart: Chart, landmarks: dict[int, int]) -> list[FeatureLine]:
    """Returns the edge of the lids, the lips' outer edge and the line where they meet, on the left half."""
    ring = surface.lid_ring
    inner = int(np.argmin(surface.verts[ring, 0]))
    # The lids' edge ends bluntly at the caruncle; the corner that people see lies in front of it.
    # Leave the ring where the line to that corner is straight.
    eye = [*ring[: inner - UPPER_SKIP], landmarks[42], *ring[inner + LOWER_SKIP :], ring[0]]
    inner_edge = chart.along(chart.flat[eye], closed=True)
    lines = []
    for chain in ((51, 52, 53, 54, 55, 56, 57), (62, 63, 64, 65, 66)):
        at = chart.flat[[landmarks[k] for k in chain]]
        corner = len(chain) // 2 if len(chain) == 5 else 3
        # A smooth line through the landmarks that meets the midline at a right angle and turns at the corner.
        upper = _smooth(at[: corner + 1], flat_end=0)
        lower = _smooth(at[corner:], flat_end=1)
        lines.append(FeatureLine(chart.along(np.concatenate([upper, lower[1:]])), chain))
    # The ring runs over the upper lid towards the nose: counter-clockwise in the flat map, its outside on the right.
    lash_line = chart.offset(inner_edge, LID_THICKNESS_MM)
    return [FeatureLine(inner_edge, (42, 43, 44, 45, 46, 47)), *lines, FeatureLine(lash_line, (), around=0)]


def _smooth(points: Floats, flat_end: int) -> Floats:
    t = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) ** 0.5)]
    spline = []
    for axis in range(2):
        # Along y the slope vanishes at the midline: the mirrored half goes on smoothly.
        ends = [(2, 0.0), (1 if axis == 1 else 2, 0.0)]
        spline.append(CubicSpline(t, points[:, axis], bc_type=tuple(ends[:: 1 if flat_end else -1])))  # type: ignore[arg-type]
    s = np.linspace(0, t[-1], 40)
    return np.stack([f(s) for f in spline], axis=1)


def inside(flat: Floats, polygon: Floats) -> NDArray[np.bool_]:
    """Tells which points of the plane lie in a closed polygon (even-odd rule)."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    x, y = flat[:, :1], flat[:, 1:]
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    slope = np.where(a[:, 1] == b[:, 1], 1.0, b[:, 1] - a[:, 1])
    at = a[:, 0] + (y - a[:, 1]) / slope * (b[:, 0] - a[:, 0])
    result: NDArray[np.bool_] = (crosses & (x < at)).sum(1) % 2 == 1
    return result


def closed_polygon(line: FeatureLine) -> Floats:
    """Returns the line as a polygon of the flat map; an open one is closed by its mirror image."""
    flat = line.curve.flat
    return flat if line.curve.closed else np.concatenate([flat, flat[::-1] * [-1, 1]])


def chain_along(faces: Ints, in_region: NDArray[np.bool_], on_midline: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Returns the template's edges along a region's border as one chain of vertices, with the region made smooth.

    A triangle with two neighbours of the other kind would have all three corners on the border: it changes sides.

    Args:
        faces: triangles of the half template.
        in_region: whether each triangle's middle lies in the region.
        on_midline: whether each vertex lies on the midline.

    Returns:
        The chain, from midline to midline or around (the first vertex not repeated), running with the region on its
        left, and the region's triangles.
    """
    side: dict[tuple[int, int], int] = {}
    for f, (a, b, c) in enumerate(faces.tolist()):
        side.update({(a, b): f, (b, c): f, (c, a): f})
    region = set(np.flatnonzero(in_region).tolist())
    for _ in range(20):
        changes = []
        for f, (a, b, c) in enumerate(faces.tolist()):
            others = [side.get(e) for e in ((b, a), (c, b), (a, c))]
            if sum(g is not None and (g in region) != (f in region) for g in others) >= 2:
                changes.append(f)
        if not changes:
            break
        region ^= {changes[0]}
    after = {}
    for f in region:
        a, b, c = faces[f].tolist()
        for e in ((a, b), (b, c), (c, a)):
            if side.get((e[1], e[0]), -1) not in region and not (on_midline[e[0]] and on_midline[e[1]]):
                after[e[0]] = e[1]
    starts = set(after) - set(after.values())
    first = starts.pop() if starts else next(iter(after))
    chain = [first]
    while chain[-1] in after and after[chain[-1]] != first:
        chain.append(after[chain[-1]])
    return np.array(chain), np.array(sorted(region))
