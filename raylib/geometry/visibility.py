"""Which directions each vertex of a mesh can see past the mesh itself, by casting parallel rays.

For one direction, all rays are parallel: seen along it, a ray is a point and a triangle blocks the points that it
covers and lies in front of. So the vertices are sorted into a grid across the direction, and each triangle tests only
the vertices in the cells that it overlaps. The cost is linear in vertices, triangles and directions.

Light comes from outside and a surface has an outside, so that only triangles that turn away from the direction block:
a ray that leaves the surface meets the next one from its outside. This leaves out most triangles and all those around
the vertex itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from raylib.kernels.threads import KERNEL, run_parts, thread_count

_MAX_CELLS = 128  # cells along an edge of the grid
_BIAS = 1e-4  # a blocker is in front by at least this share of the mesh's extent


@njit(**KERNEL)
def _cast_parallel_rays(part, parts, verts, normals, faces, directions, extent, n_cells, visible):
    """Clears `visible[s, v]` where the mesh blocks direction s from vertex v, every `parts`-th direction."""
    n_verts, n_faces = verts.shape[0], faces.shape[0]
    u, w, height = np.empty(n_verts, np.float32), np.empty(n_verts, np.float32), np.empty(n_verts, np.float32)
    cell = np.empty(n_verts, np.int32)
    start = np.empty(n_cells * n_cells + 1, np.int32)
    members = np.empty(n_verts, np.int32)
    bias = np.float32(_BIAS) * extent
    for s in range(part, directions.shape[0], parts):
        dx, dy, dz = directions[s, 0], directions[s, 1], directions[s, 2]
        # Two axes across the direction (Duff et al. 2017, "Building an orthonormal basis, revisited").
        sign = np.float32(1.0) if dz >= 0 else np.float32(-1.0)
        a = np.float32(-1.0) / (sign + dz)
        b = dx * dy * a
        ux, uy, uz = np.float32(1.0) + sign * dx * dx * a, sign * b, -sign * dx
        wx, wy, wz = b, sign + dy * dy * a, -dy
        for v in range(n_verts):
            u[v] = verts[v, 0] * ux + verts[v, 1] * uy + verts[v, 2] * uz
            w[v] = verts[v, 0] * wx + verts[v, 1] * wy + verts[v, 2] * wz
            height[v] = verts[v, 0] * dx + verts[v, 1] * dy + verts[v, 2] * dz
        u_min, w_min = u.min(), w.min()
        per_u = np.float32(n_cells) / max(u.max() - u_min, np.float32(1e-12)) * np.float32(0.99999)
        per_w = np.float32(n_cells) / max(w.max() - w_min, np.float32(1e-12)) * np.float32(0.99999)
        # Vertices that face the direction, sorted into cells.
        start[:] = 0
        n_facing = 0
        lowest = np.float32(np.inf)
        for v in range(n_verts):
            cell[v] = -1
            if normals[v, 0] * dx + normals[v, 1] * dy + normals[v, 2] * dz > 0:
                cell[v] = np.int32((w[v] - w_min) * per_w) * n_cells + np.int32((u[v] - u_min) * per_u)
                start[cell[v] + 1] += 1
                n_facing += 1
                lowest = min(lowest, height[v])
        if n_facing == 0:
            continue
        for c in range(n_cells * n_cells):
            start[c + 1] += start[c]
        for v in range(n_verts - 1, -1, -1):
            if cell[v] >= 0:
                start[cell[v] + 1] -= 1
                members[start[cell[v] + 1]] = v
        # Now start[c + 1] is where cell c begins, and cell c ends where the next begins.
        for f in range(n_faces):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            ui, uj, uk, wi, wj, wk = u[i], u[j], u[k], w[i], w[j], w[k]
            area = (uj - ui) * (wk - wi) - (wj - wi) * (uk - ui)
            if area >= 0:
                continue
            top = max(height[i], max(height[j], height[k])) - bias
            if top <= lowest:
                continue
            u_low, u_high = min(ui, min(uj, uk)), max(ui, max(uj, uk))
            w_low, w_high = min(wi, min(wj, wk)), max(wi, max(wj, wk))
            column0, column1 = np.int32((u_low - u_min) * per_u), np.int32((u_high - u_min) * per_u)
            for row in range(np.int32((w_low - w_min) * per_w), np.int32((w_high - w_min) * per_w) + 1):
                # The cells of a row are neighbours in memory, so that their members are one run.
                first_cell, last_cell = row * n_cells + column0, row * n_cells + column1
                end = start[last_cell + 2] if last_cell + 2 <= n_cells * n_cells else n_facing
                for m in range(start[first_cell + 1], end):
                    v = members[m]
                    if height[v] >= top:
                        continue
                    ei = (uj - u[v]) * (wk - w[v]) - (wj - w[v]) * (uk - u[v])
                    ej = (uk - u[v]) * (wi - w[v]) - (wk - w[v]) * (ui - u[v])
                    ek = area - ei - ej
                    if (ei > 0) | (ej > 0) | (ek > 0) or v in (i, j, k):
                        continue
                    if (ei * height[i] + ej * height[j] + ek * height[k]) / area > height[v] + bias:
                        visible[s, v] = False


def visible_directions(
    verts: Float[Tensor, "b v 3"],
    normals: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    directions: Float[Tensor, "s 3"],
) -> Bool[Tensor, "b v s"]:
    """Returns whether each vertex sees each direction: it faces it, and no other triangle is in the way.

    Runs on the CPU, wherever the tensors are, and has no gradient.

    Args:
        verts: positions, any unit.
        normals: unit normals of the vertices.
        faces: triangles.
        directions: unit vectors away from the mesh.
    """
    n_verts = verts.shape[1]
    points = verts.detach().float().cpu().numpy()
    ups = normals.detach().float().cpu().numpy()
    corners = faces.cpu().numpy().astype(np.int32)
    rays = directions.detach().float().cpu().numpy()
    n_cells = int(min(_MAX_CELLS, max(1, math.sqrt(n_verts))))
    visible = np.empty((len(points), len(rays), n_verts), np.bool_)
    for image in range(len(points)):
        visible[image] = rays @ ups[image].T > 0
        extent = np.float32(np.ptp(points[image], axis=0).max())
        run_parts(
            _cast_parallel_rays, thread_count(), points[image], ups[image], corners, rays, extent, n_cells,
            visible[image],
        )  # fmt: skip
    return torch.from_numpy(visible).transpose(1, 2).to(verts.device)
