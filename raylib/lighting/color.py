"""sRGB and linear light (IEC 61966-2-1), both in 0..1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""How bright linear red, green and blue look."""


def srgb_to_linear(srgb: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Returns linear light from sRGB, differentiable."""
    curve = ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= 0.04045, srgb / 12.92, curve)


def linear_to_srgb(linear: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Returns sRGB from linear light, differentiable and not clipped: light above white is above one."""
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curve)
