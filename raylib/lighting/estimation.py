"""Light from the colours of vertices, by least squares."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from raylib.lighting.spherical_harmonics import N_SH

MIN_SHADING = 0.08  # what a first guess of the light leaves at least: deeper shadows tell nothing of the albedo


def white_light(
    transfer: Float[Tensor, "b v 9"], color: Float[Tensor, "b v 3"], seen: Float[Tensor, "b v"]
) -> Float[Tensor, "b 9"]:
    """Returns the white light that explains the brightness of a face of one albedo; its mean shading is one.

    How bright the light is and how dark the skin cannot be told apart in one picture. Cameras expose faces so that
    the mean shading is near one; deviations are for a trained network to know.
    """
    grey = color.mean(-1)
    mean = (grey * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1e-6)
    wanted = (grey / mean.clamp(min=1e-4)).clamp(max=4)
    weight = seen.clone()
    ridge = torch.full((N_SH,), 0.02, device=color.device)
    ridge[0] = 1e-4
    for _ in range(4):  # reweighted: lips, brows and pupils are outliers of one albedo
        scaled = transfer * weight[..., None]
        total = weight.sum(1)[:, None, None].clamp(min=1e-6)
        normal = scaled.transpose(1, 2) @ transfer / total + torch.diag(ridge)
        light = torch.linalg.solve(normal, (scaled * wanted[..., None]).sum(1) / total[..., 0])
        off = (wanted - (transfer @ light[..., None])[..., 0]).abs()
        weight = seen * (0.1 / off.clamp(min=0.1))
    shading = (transfer @ light[..., None])[..., 0].clamp(min=MIN_SHADING)
    return light / ((shading * seen).sum(1) / seen.sum(1).clamp(min=1e-6)).clamp(min=0.1)[:, None]
