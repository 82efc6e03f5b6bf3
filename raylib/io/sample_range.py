"""Samples of more than 8 bits, brought to the full scale of 16 bits by what they and their file say."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped, UInt16

_INTEGER_SCALES = (1, 255, 1023, 4095, 16383, 65535)
_FLOAT_SCALES = ((16.0, 1.0), *((float(s), float(s)) for s in _INTEGER_SCALES[1:]))
"""The largest value that goes with a full scale. Light above white is common in floating point, pictures in 0..255
whose brightest parts stay below 16 are not."""
_FLOAT_OUTLIERS = 0.005
_INTEGER_OUTLIERS = 0.0005
_MIN_OUTLIERS = 3


def full_scale(samples: Shaped[np.ndarray, "*s"], declared: float | None = None) -> float:
    """Returns the value that stands for white.

    It is the smallest usual scale (1, and 8, 10, 12, 14 and 16 bits) that holds all samples but a few outliers: 0.5 %
    of floating-point ones, 0.05 % of integers, at least three. Larger samples are their own scale.

    Args:
        samples: integers or floating point; what is not finite is passed over.
        declared: the scale by the file, which holds where the samples keep to it.
    """
    floating = samples.dtype.kind == "f"
    allowed = max(_MIN_OUTLIERS, int(samples.size * (_FLOAT_OUTLIERS if floating else _INTEGER_OUTLIERS)))
    finite = samples[np.isfinite(samples)] if floating else samples.reshape(-1)

    def holds(limit: float) -> bool:
        return int(np.count_nonzero(finite > limit)) <= allowed

    if declared is not None and declared > 0 and holds(declared):
        return declared
    for limit, scale in _FLOAT_SCALES if floating else ((s, s) for s in _INTEGER_SCALES):
        if holds(limit):
            return float(scale)
    return float(np.partition(finite, -allowed - 1)[-allowed - 1])


def to_sixteen_bits(samples: Shaped[np.ndarray, "*s"], scale: float) -> UInt16[np.ndarray, "*s"]:
    """Returns samples with `scale` at 65535; what is brighter is clipped, what is no number is black."""
    if samples.dtype == np.uint16 and scale == 65535:
        return samples
    exact: np.ndarray = samples.astype(np.float64 if samples.dtype.itemsize > 2 else np.float32)
    share = np.nan_to_num(exact / np.float32(scale), nan=0.0, posinf=1.0, neginf=0.0)
    return (np.clip(share, 0, 1) * 65535 + 0.5).astype(np.uint16)
