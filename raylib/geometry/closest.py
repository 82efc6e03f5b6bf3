"""The closest point of a triangle mesh for many points: a tree of boxes, and exact distances to its triangles.

The tree is complete: node i has the children 2 i + 1 and 2 i + 2, and each level halves its parents' triangles by the
widest extent of their centroids. A query walks it nearest box first and leaves out boxes that are farther away than
what was found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from numpy import ndarray

from raylib.geometry.mesh import vertex_normals
from raylib.kernels.threads import KERNEL, run_parts, thread_count

_LEAF = 4  # triangles in a leaf, at most


@njit(**KERNEL)
def build_tree(triangles):
    """Returns the order of the triangles, the range of it that each node holds, and each node's box.

    Args:
        triangles: (f, 3, 3) float64 corners, at least one triangle.
    """
    n = triangles.shape[0]
    levels = 0
    while (_LEAF << levels) < n:
        levels += 1
    n_nodes = (2 << levels) - 1
    order = np.arange(n)
    first, last = np.zeros(n_nodes, np.int64), np.zeros(n_nodes, np.int64)
    boxes = np.empty((n_nodes, 6))
    centroids = np.empty((n, 3))
    for f in range(n):
        for k in range(3):
            centroids[f, k] = (triangles[f, 0, k] + triangles[f, 1, k] + triangles[f, 2, k]) / 3
    last[0] = n
    for node in range(n_nodes):
        i, j = first[node], last[node]
        for k in range(3):
            low, high = np.inf, -np.inf
            for f in order[i:j]:
                for corner in range(3):
                    low, high = min(low, triangles[f, corner, k]), max(high, triangles[f, corner, k])
            boxes[node, k], boxes[node, 3 + k] = low, high
        if 2 * node + 2 >= n_nodes:
            continue
        axis, widest = 0, -1.0
        for k in range(3):
            low, high = np.inf, -np.inf
            for f in order[i:j]:
                low, high = min(low, centroids[f, k]), max(high, centroids[f, k])
            if high - low > widest:
                axis, widest = k, high - low
        part = order[i:j].copy()
        order[i:j] = part[np.argsort(centroids[part, axis])]
        middle = (i + j) // 2
        first[2 * node + 1], last[2 * node + 1] = i, middle
        first[2 * node + 2], last[2 * node + 2] = middle, j
    return order, first, last, boxes


@njit(**KERNEL)
def _on_segment(px, py, pz, a, b):
    """Returns the share of b in the closest point of the segment a b, and its squared distance."""
    ex, ey, ez = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    length2 = ex * ex + ey * ey + ez * ez
    t = 0.0
    if length2 > 0:
        t = min(1.0, max(0.0, ((px - a[0]) * ex + (py - a[1]) * ey + (pz - a[2]) * ez) / length2))
    dx, dy, dz = a[0] + t * ex - px, a[1] + t * ey - py, a[2] + t * ez - pz
    return t, dx * dx + dy * dy + dz * dz


@njit(**KERNEL)
def _on_triangle(px, py, pz, t):
    """Returns the barycentric coordinates of the closest point of the triangle t, and its squared distance."""
    a, b, c = t[0], t[1], t[2]
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = px - a[0], py - a[1], pz - a[2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    n2 = nx * nx + ny * ny + nz * nz
    if n2 > 0:
        # Shares of b and c of the foot of the perpendicular.
        tb = ((wy * vz - wz * vy) * nx + (wz * vx - wx * vz) * ny + (wx * vy - wy * vx) * nz) / n2
        tc = ((uy * wz - uz * wy) * nx + (uz * wx - ux * wz) * ny + (ux * wy - uy * wx) * nz) / n2
        if tb >= 0 and tc >= 0 and tb + tc <= 1:
            height = wx * nx + wy * ny + wz * nz
            return 1 - tb - tc, tb, tc, height * height / n2
    # Outside, or a triangle without area: its edges.
    t_ab, d_ab = _on_segment(px, py, pz, a, b)
    t_bc, d_bc = _on_segment(px, py, pz, b, c)
    t_ca, d_ca = _on_segment(px, py, pz, c, a)
    if d_ab <= d_bc and d_ab <= d_ca:
        return 1 - t_ab, t_ab, 0.0, d_ab
    if d_bc <= d_ca:
        return 0.0, 1 - t_bc, t_bc, d_bc
    return t_ca, 0.0, 1 - t_ca, d_ca


@njit(**KERNEL)
def _box_distance2(px, py, pz, box):
    dx = max(box[0] - px, 0.0, px - box[3])
    dy = max(box[1] - py, 0.0, py - box[4])
    dz = max(box[2] - pz, 0.0, pz - box[5])
    return dx * dx + dy * dy + dz * dz


@njit(**KERNEL)
def closest_points(part, parts, points, triangles, order, first, last, boxes, face, bary, distance2):
    """Writes triangle, barycentric coordinates and squared distance of each point, every `parts`-th from `part` on.

    A triangle in `face` that is not negative is tried first, which saves time where it is near.
    """
    n_nodes = boxes.shape[0]
    stack, reach = np.empty(128, np.int64), np.empty(128)
    for i in range(part, points.shape[0], parts):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        best, best_face = np.inf, face[i]
        b0, b1, b2 = 1.0, 0.0, 0.0
        if best_face >= 0:
            b0, b1, b2, best = _on_triangle(px, py, pz, triangles[best_face])
        top, stack[0], reach[0] = 1, 0, 0.0
        while top > 0:
            top -= 1
            node = stack[top]
            if reach[top] >= best:
                continue
            left = 2 * node + 1
            if left >= n_nodes:
                for j in range(first[node], last[node]):
                    f = order[j]
                    c0, c1, c2, d2 = _on_triangle(px, py, pz, triangles[f])
                    if d2 < best:
                        best, best_face, b0, b1, b2 = d2, f, c0, c1, c2
                continue
            near, far = left, left + 1
            near_d2, far_d2 = _box_distance2(px, py, pz, boxes[near]), _box_distance2(px, py, pz, boxes[far])
            if far_d2 < near_d2:
                near, far, near_d2, far_d2 = far, near, far_d2, near_d2
            if far_d2 < best:
                stack[top], reach[top] = far, far_d2
                top += 1
            if near_d2 < best:
                stack[top], reach[top] = near, near_d2
                top += 1
        face[i], distance2[i] = best_face, best
        bary[i, 0], bary[i, 1], bary[i, 2] = b0, b1, b2


@dataclass(frozen=True)
class Closest:
    """Points of a surface.

    Attributes:
        face: triangle of each.
        bary: barycentric coordinates in it.
        point: position.
        distance: distance from the point that was asked for.
    """

    face: Int[ndarray, " n"]
    bary: Float[ndarray, "n 3"]
    point: Float[ndarray, "n 3"]
    distance: Float[ndarray, " n"]


class MeshSurface:
    """A triangle mesh prepared for closest-point queries.

    Args:
        verts: vertices.
        faces: triangles, at least one.
    """

    def __init__(self, verts: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]):
        self.verts, self.faces = np.asarray(verts, dtype=np.float64), np.asarray(faces)
        self._triangles = np.ascontiguousarray(self.verts[self.faces])
        self._tree = build_tree(self._triangles)

    def closest(self, points: Float[ndarray, "n 3"], near: Int[ndarray, " n"] | None = None) -> Closest:
        """Returns the closest point of the surface for each point.

        Args:
            points: where to look from.
            near: a triangle for each point that is probably near; shortens the search.
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        face = np.full(len(points), -1) if near is None else np.array(near, dtype=np.int64)
        bary, distance2 = np.empty((len(points), 3)), np.empty(len(points))
        run_parts(closest_points, thread_count(), points, self._triangles, *self._tree, face, bary, distance2)
        return Closest(face, bary, np.einsum("nk,nkd->nd", bary, self._triangles[face]), np.sqrt(distance2))

    def distance(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
        """Returns the distance of each point from the surface."""
        return self.closest(points).distance

    def normals_at(self, found: Closest) -> Float[ndarray, "n 3"]:
        """Returns unit normals at points of the surface, interpolated between its vertices."""
        normals = surface_normals(self.verts, self.faces)
        return unit(np.einsum("nk,nkd->nd", found.bary, normals[self.faces[found.face]]))


def unit(vectors: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n 3"]:
    """Returns vectors of length one; a vector without length stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def surface_normals(verts: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]) -> Float[ndarray, "v 3"]:
    """Returns unit normals of the vertices, see `mesh.vertex_normals`."""
    verts = np.asarray(verts, dtype=np.float64)
    return vertex_normals(torch.from_numpy(verts)[None], torch.from_numpy(faces))[0].numpy()
