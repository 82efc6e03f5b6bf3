"""Vertices of meshes in the pixels of their cameras, with a gradient that is fast on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from raylib.geometry.camera import Camera
from raylib.kernels.threads import KERNEL, parts_for_images, run_parts

_MIN_DEPTH = np.float32(1e-6)
"""A face with a vertex this near or behind the camera is culled by its depth; its pixels only have to stay finite."""

_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


@njit(**KERNEL)
def _project_forward(part, parts, verts, R, T, focal, principal, pixel_verts):
    for n in range(part, verts.shape[0], parts):
        for v in range(verts.shape[1]):
            x, y, z = verts[n, v, 0], verts[n, v, 1], verts[n, v, 2]
            depth = R[n, 2, 0] * x + R[n, 2, 1] * y + R[n, 2, 2] * z + T[n, 2]
            scale = focal[n] / (depth if depth > _MIN_DEPTH else _ONE)
            for c in range(2):
                at = R[n, c, 0] * x + R[n, c, 1] * y + R[n, c, 2] * z + T[n, c]
                pixel_verts[n, v, c] = at * scale + principal[n, c]
            pixel_verts[n, v, 2] = depth


@njit(**KERNEL)
def _project_backward(part, parts, verts, R, focal, principal, pixel_verts, grads,
                      of_verts, of_R, of_T, of_focal, of_principal):  # fmt: skip
    """Writes the gradients of the vertices and adds up those of the cameras, which are zero at first."""
    for n in range(part, verts.shape[0], parts):
        for v in range(verts.shape[1]):
            depth = pixel_verts[n, v, 2]
            before = depth > _MIN_DEPTH
            inverse = _ONE / (depth if before else _ONE)
            gu, gv = grads[n, v, 0], grads[n, v, 1]
            # Offsets from the principal point, which are focal x / z and focal y / z.
            u, w = pixel_verts[n, v, 0] - principal[n, 0], pixel_verts[n, v, 1] - principal[n, 1]
            along = gu * u + gv * w
            gx, gy = gu * focal[n] * inverse, gv * focal[n] * inverse
            gz = grads[n, v, 2] - (along * inverse if before else _ZERO)
            for c in range(3):
                of_verts[n, v, c] = gx * R[n, 0, c] + gy * R[n, 1, c] + gz * R[n, 2, c]
                of_R[n, 0, c] += gx * verts[n, v, c]
                of_R[n, 1, c] += gy * verts[n, v, c]
                of_R[n, 2, c] += gz * verts[n, v, c]
            of_T[n, 0] += gx
            of_T[n, 1] += gy
            of_T[n, 2] += gz
            of_focal[n] += along / focal[n]
            of_principal[n, 0] += gu
            of_principal[n, 1] += gv


class _PixelVerts(torch.autograd.Function):
    """The kernels above: one call each for what would be some thirty of torch's, each longer than its work."""

    @staticmethod
    def forward(ctx: Any, verts: Tensor, R: Tensor, T: Tensor, focal: Tensor, principal: Tensor) -> Tensor:
        ctx.scene = tuple(t.detach().contiguous().numpy() for t in (verts, R, T, focal, principal))
        ctx.pixel_verts = np.empty(verts.shape, np.float32)
        run_parts(_project_forward, parts_for_images(*verts.shape[:2]), *ctx.scene, ctx.pixel_verts)
        return torch.from_numpy(ctx.pixel_verts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        verts, R, T, focal, principal = ctx.scene
        of_verts = np.empty(verts.shape, np.float32)
        # Thousands of vertices are added up: doubles, so that rounding does not grow with them.
        of_camera = [np.zeros(a.shape, np.float64) for a in (R, T, focal, principal)]
        run_parts(
            _project_backward, parts_for_images(*verts.shape[:2]), verts, R, focal, principal, ctx.pixel_verts,
            grads[0].contiguous().numpy(), of_verts, *of_camera,
        )  # fmt: skip
        return torch.from_numpy(of_verts), *(torch.from_numpy(g.astype(np.float32)) for g in of_camera)


def pixel_verts(verts: Float[Tensor, "b v 3"], camera: Camera) -> Float[Tensor, "b v 3"]:
    """Returns x and y in pixels and depth, in single precision on the CPU by kernels.

    Args:
        verts: vertices in the camera's face space.
        camera: one camera a mesh, or one for all.
    """
    # Expanded, since the kernels do not look whether they read beyond the end.
    parts = tuple(
        t.expand(len(verts), *t.shape[1:]) for t in (camera.R, camera.T, camera.focal_px, camera.principal_px)
    )
    if verts.device.type == "cpu" and all(t.dtype == torch.float32 for t in (verts, *parts)):
        return _PixelVerts.apply(verts, *parts)
    in_camera = camera.to_camera(verts)
    depth = in_camera[..., 2:]
    divisor = torch.where(depth > float(_MIN_DEPTH), depth, 1.0)
    pixels = in_camera[..., :2] / divisor * camera.focal_px[:, None, None] + camera.principal_px[:, None]
    return torch.cat([pixels, depth], dim=-1)
