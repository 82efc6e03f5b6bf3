"""A blended surface before its background, with a gradient that is fast on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor

from raylib.kernels.threads import KERNEL, parts_for, run_parts

_MIN_COVERED = np.float32(1e-6)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)

_PIXELS_WORTH_A_THREAD = 32_768
"""See `parts_for`."""


@njit(**KERNEL)
def _over_forward(part, parts, color, share, alpha, background, image):
    """Writes alpha color / (1 - share) + (1 - alpha) background for (n, 3) pixels; black without a background."""
    n = color.shape[0]
    for p in range(part * n // parts, (part + 1) * n // parts):
        surface = alpha[p] / max(_ONE - share[p], _MIN_COVERED)
        for c in range(3):
            image[p, c] = color[p, c] * surface
        if background.shape[0] > 0:
            for c in range(3):
                image[p, c] += (_ONE - alpha[p]) * background[p, c]


@njit(**KERNEL)
def _over_backward(part, parts, color, share, alpha, background, grads, of_color, of_share, of_alpha, of_background):
    """Writes the gradients of what `_over_forward` takes; that of the background unless it has no size."""
    n = color.shape[0]
    for p in range(part * n // parts, (part + 1) * n // parts):
        left = _ONE - share[p]
        inverse = _ONE / max(left, _MIN_COVERED)
        along = _ZERO
        for c in range(3):
            along += grads[p, c] * color[p, c]
            of_color[p, c] = grads[p, c] * alpha[p] * inverse
        of_share[p] = along * alpha[p] * inverse * inverse if left > _MIN_COVERED else _ZERO
        of_alpha[p] = along * inverse
        if background.shape[0] > 0:
            for c in range(3):
                of_alpha[p] -= grads[p, c] * background[p, c]
        if of_background.shape[0] > 0:
            for c in range(3):
                of_background[p, c] = (_ONE - alpha[p]) * grads[p, c]


def _pixels(t: Tensor, *channels: int) -> Any:
    return t.detach().contiguous().numpy().reshape(-1, *channels)


class _Over(torch.autograd.Function):
    """The kernels above: one call each for what would be a dozen of torch's passes over the picture."""

    @staticmethod
    def forward(ctx: Any, color: Tensor, share: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        ctx.scene = _pixels(color, 3), _pixels(share), _pixels(alpha), _pixels(background, 3)
        ctx.background_shape = background.shape
        image = torch.empty(color.shape)
        parts = parts_for(share.numel(), _PIXELS_WORTH_A_THREAD)
        run_parts(_over_forward, parts, *ctx.scene, image.numpy().reshape(-1, 3))
        return image

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape = grads[0].shape
        of_color, of_share, of_alpha = torch.empty(shape), torch.empty(*shape[:3], 1), torch.empty(shape[:3])
        of_background = torch.empty(ctx.background_shape) if ctx.needs_input_grad[3] else None
        n_pixels = of_alpha.numel()
        run_parts(
            _over_backward, parts_for(n_pixels, _PIXELS_WORTH_A_THREAD), *ctx.scene, _pixels(grads[0], 3),
            _pixels(of_color, 3), _pixels(of_share), _pixels(of_alpha),
            np.empty((0, 3), np.float32) if of_background is None else _pixels(of_background, 3),
        )  # fmt: skip
        return of_color, of_share, of_alpha, of_background


def over(
    color: Float[Tensor, "b h w 3"],
    share: Float[Tensor, "b h w 1"],
    alpha: Float[Tensor, "b h w"],
    background: Float[Tensor, ...] | None,
) -> Float[Tensor, "b h w 3"]:
    """Returns surface and background mixed by coverage, in single precision on the CPU by kernels.

    Args:
        color: blended colours of the surface, which weigh 1 - share.
        share: share of the background in the blend.
        alpha: coverage.
        background: one colour (3), or a picture (b, h, w, 3) or (h, w, 3); None is black.
    """
    tensors = (color, share, alpha) if background is None else (color, share, alpha, background)
    if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors):
        picture = color.new_empty(0, 3) if background is None else background.expand(color.shape)
        return _Over.apply(color, share, alpha, picture)
    surface = alpha[..., None] * (color / (1 - share).clamp(min=float(_MIN_COVERED)))
    return surface if background is None else surface + (1 - alpha[..., None]) * background
