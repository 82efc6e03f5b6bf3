"""How alike two pictures are inside a mask."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from skimage.metrics import structural_similarity


def masked_psnr(a: Float[np.ndarray, "h w 3"], b: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> float:
    """Returns the peak signal-to-noise ratio in dB of pictures in 0..1 inside the mask; infinite where they agree."""
    error = float(np.square(a[mask] - b[mask], dtype=np.float64).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def masked_ssim(a: Float[np.ndarray, "h w 3"], b: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> float:
    """Returns the mean structural similarity (Wang et al. 2004) at the mask's pixels, of pictures in 0..1.

    Windows that reach beyond the mask see the same on both sides there.
    """
    filled = np.where(mask[..., None], a, b)
    _, similarity = structural_similarity(
        filled, b, channel_axis=2, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return float(similarity[mask].mean())


def scale_between(
    mine: Float[np.ndarray, "n c"], true: Float[np.ndarray, "n c"], weights: Float[np.ndarray, " n"] | None = None
) -> float:
    """Returns the factor on `mine` with least squared difference to `true`."""
    w = np.ones(len(mine)) if weights is None else weights
    return float((w[:, None] * mine * true).sum() / max(float((w[:, None] * mine * mine).sum()), 1e-30))


def relative_error(
    mine: Float[np.ndarray, "n c"], true: Float[np.ndarray, "n c"], weights: Float[np.ndarray, " n"] | None = None
) -> float:
    """Returns the least root mean square of `s * mine - true` over factors s, as a share of that of `true`."""
    w = np.ones(len(mine)) if weights is None else weights
    off = scale_between(mine, true, w) * mine - true
    return float(np.sqrt((w[:, None] * off**2).sum() / (w[:, None] * true**2).sum()))


def square_around(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Returns rows and columns of about a square around a mask that is not empty, cut at the picture's border."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(np.ptp(rows), np.ptp(columns)) + 17
    top = max(0, (rows[0] + rows[-1] - side) // 2)
    left = max(0, (columns[0] + columns[-1] - side) // 2)
    return slice(top, top + side), slice(left, left + side)
