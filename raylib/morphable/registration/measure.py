"""Distances and folds: how well the wrapped template stands for its source."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True)
def _closest(points, verts, faces):  # type: ignore[no-untyped-def]
    """Squared distance of each point to its nearest triangle (Ericson, Real-Time Collision Detection, 5.1.5)."""
    best = np.full(len(points), np.inf)
    n = len(faces)
    centre, radius = np.empty((n, 3)), np.empty(n)
    for f in range(n):
        for k in range(3):
            centre[f, k] = (verts[faces[f, 0], k] + verts[faces[f, 1], k] + verts[faces[f, 2], k]) / 3
        r = 0.0
        for j in range(3):
            r = max(r, np.sqrt(((verts[faces[f, j]] - centre[f]) ** 2).sum()))
        radius[f] = r
    for i in range(len(points)):
        px, py, pz = points[i]
        nearest = np.inf
        for f in range(n):
            dx, dy, dz = px - centre[f, 0], py - centre[f, 1], pz - centre[f, 2]
            reach = np.sqrt(nearest) + radius[f]
            if dx * dx + dy * dy + dz * dz > reach * reach:
                continue
            p = points[i]
            a, b, c = verts[faces[f, 0]], verts[faces[f, 1]], verts[faces[f, 2]]
            ab, ac, ap = b - a, c - a, p - a
            d1, d2 = (ab * ap).sum(), (ac * ap).sum()
            bp, cp = p - b, p - c
            d3, d4 = (ab * bp).sum(), (ac * bp).sum()
            d5, d6 = (ab * cp).sum(), (ac * cp).sum()
            va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
            if d1 <= 0 and d2 <= 0:
                q = a
            elif d3 >= 0 and d4 <= d3:
                q = b
            elif d6 >= 0 and d5 <= d6:
                q = c
            elif vc <= 0 and d1 >= 0 and d3 <= 0:
                q = a + ab * (d1 / (d1 - d3))
            elif vb <= 0 and d2 >= 0 and d6 <= 0:
                q = a + ac * (d2 / (d2 - d6))
            elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
                q = b + (c - b) * ((d4 - d3) / ((d4 - d3) + (d5 - d6)))
            else:
                s = 1.0 / (va + vb + vc)
                q = a + ab * (vb * s) + ac * (vc * s)
            nearest = min(nearest, ((p - q) ** 2).sum())
        best[i] = nearest
    return best


def point_to_mesh_mm(points: Floats, verts: Floats, faces: Ints) -> Floats:
    """Returns the distance of each point to the nearest point of the triangles, in the units given."""
    result: Floats = np.sqrt(_closest(*(np.ascontiguousarray(a, np.float64) for a in (points, verts)), faces))
    return result


def cross_products(verts: Floats, faces: Ints) -> Floats:
    """Returns the triangles' normals with twice their areas as length, for one or several vertex arrays."""
    a, b, c = (verts[..., faces[:, k], :] for k in range(3))
    result: Floats = np.cross(b - a, c - a)
    return result


def smallest_angles_deg(verts: Floats, faces: Ints) -> Floats:
    """Returns the smallest angle of each triangle in degrees."""
    angles = []
    for k in range(3):
        a, b, c = (verts[faces[:, (k + j) % 3]] for j in range(3))
        u, w = b - a, c - a
        angles.append(np.arctan2(np.linalg.norm(np.cross(u, w), axis=1), (u * w).sum(1)))
    result: Floats = np.degrees(np.min(angles, axis=0))
    return result
