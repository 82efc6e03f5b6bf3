"""Kernels of the synthetic faces: normals, texture, hair and the shading of samples."""

import math

import numpy as np
from numba import njit

from raylib.kernels.threads import KERNEL


@njit(**KERNEL)
def _accumulate_normals(verts, faces, out):
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = verts[j, 0] - verts[i, 0], verts[j, 1] - verts[i, 1], verts[j, 2] - verts[i, 2]
        bx, by, bz = verts[k, 0] - verts[i, 0], verts[k, 1] - verts[i, 1], verts[k, 2] - verts[i, 2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            out[v, 0] += x
            out[v, 1] += y
            out[v, 2] += z
    for v in range(out.shape[0]):
        length = math.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2)
        for c in range(3):
            out[v, c] /= max(length, np.float32(1e-12))


def mesh_normals(verts, faces):
    """Returns unit vertex normals, triangles weighted by area."""
    out = np.zeros_like(verts)
    _accumulate_normals(verts, faces, out)
    return out
