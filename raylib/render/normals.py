"""Unit normals of the vertices of meshes of one topology, with a gradient that is fast on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from raylib.geometry.mesh import vertex_normals
from raylib.kernels.threads import KERNEL, parts_for_images, run_parts

_MIN_LENGTH = np.float32(1e-12)
_ONE = np.float32(1.0)


@njit(**KERNEL)
def _edges(verts, faces, n, f):
    """The first vertex of a face and, from it, the edges to the other two."""
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    x, y, z = verts[n, i, 0], verts[n, i, 1], verts[n, i, 2]
    first = verts[n, j, 0] - x, verts[n, j, 1] - y, verts[n, j, 2] - z
    return first, (verts[n, k, 0] - x, verts[n, k, 1] - y, verts[n, k, 2] - z)


@njit(**KERNEL)
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(**KERNEL)
def _normals_forward(part, parts, verts, faces, normals, inverse_length):
    """Writes the normals of (images, verts, 3), zero at first, and the inverse length of the sums behind them."""
    for n in range(part, verts.shape[0], parts):
        for f in range(faces.shape[0]):
            a, b = _edges(verts, faces, n, f)
            normal = _cross(a, b)
            for corner in range(3):
                v = faces[f, corner]
                normals[n, v, 0] += normal[0]
                normals[n, v, 1] += normal[1]
                normals[n, v, 2] += normal[2]
        for v in range(verts.shape[1]):
            x, y, z = normals[n, v, 0], normals[n, v, 1], normals[n, v, 2]
            inverse = _ONE / max(np.sqrt(x * x + y * y + z * z), _MIN_LENGTH)
            inverse_length[n, v] = inverse
            normals[n, v, 0], normals[n, v, 1], normals[n, v, 2] = x * inverse, y * inverse, z * inverse


@njit(**KERNEL)
def _normals_backward(part, parts, verts, faces, normals, inverse_length, grads, grad_verts):
    """Adds the gradients of the normals to those of the vertices."""
    sums = np.empty((verts.shape[1], 3), np.float32)
    for n in range(part, verts.shape[0], parts):
        for v in range(verts.shape[1]):
            x, y, z = normals[n, v, 0], normals[n, v, 1], normals[n, v, 2]
            along = x * grads[n, v, 0] + y * grads[n, v, 1] + z * grads[n, v, 2]
            inverse = inverse_length[n, v]
            sums[v, 0] = (grads[n, v, 0] - x * along) * inverse
            sums[v, 1] = (grads[n, v, 1] - y * along) * inverse
            sums[v, 2] = (grads[n, v, 2] - z * along) * inverse
        for f in range(faces.shape[0]):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            total = (
                sums[i, 0] + sums[j, 0] + sums[k, 0],
                sums[i, 1] + sums[j, 1] + sums[k, 1],
                sums[i, 2] + sums[j, 2] + sums[k, 2],
            )
            a, b = _edges(verts, faces, n, f)
            to_j, to_k = _cross(b, total), _cross(total, a)
            for c in range(3):
                grad_verts[n, i, c] -= to_j[c] + to_k[c]
                grad_verts[n, j, c] += to_j[c]
                grad_verts[n, k, c] += to_k[c]


class _VertexNormals(torch.autograd.Function):
    """The kernels above; torch's own backward of indexing takes many times as long."""

    @staticmethod
    def forward(ctx: Any, verts: Tensor, faces: Tensor) -> Tensor:
        ctx.scene = verts.detach().contiguous().numpy(), faces.contiguous().numpy()
        normals, ctx.inverse_length = np.zeros(verts.shape, np.float32), np.empty(verts.shape[:2], np.float32)
        run_parts(_normals_forward, parts_for_images(*verts.shape[:2]), *ctx.scene, normals, ctx.inverse_length)
        result = torch.from_numpy(normals)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (normals,) = ctx.saved_tensors
        total = np.zeros(normals.shape, np.float32)
        run_parts(
            _normals_backward, parts_for_images(*normals.shape[:2]), *ctx.scene, normals.numpy(), ctx.inverse_length,
            grads[0].contiguous().numpy(), total,
        )  # fmt: skip
        return torch.from_numpy(total), None


def fast_vertex_normals(verts: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b v 3"]:
    """Returns the normals of `mesh.vertex_normals`, in single precision on the CPU by kernels."""
    if verts.device.type != "cpu" or verts.dtype != torch.float32:
        return vertex_normals(verts, faces)
    return _VertexNormals.apply(verts, faces)
