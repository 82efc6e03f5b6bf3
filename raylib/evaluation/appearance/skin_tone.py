"""Skin tone as colorimetry has it: the individual typology angle and its six classes."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

CLASSES = ("very light", "light", "intermediate", "tan", "brown", "dark")
"""From the largest angle to the smallest (Chardon, Cretois and Hourseau 1991; Del Bino and Bernerd 2013)."""

_LIMITS_DEG = (55.0, 41.0, 28.0, 10.0, -30.0)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1); its rows' sums are the white point D65."""


def lab(linear: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Returns CIE L*, a*, b* under D65 of linear sRGB."""
    xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(np.maximum(xyz, 0)), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def typology_angle_deg(albedo: Float[np.ndarray, "n 3"]) -> float:
    """Returns the individual typology angle of the median colour: atan((L* - 50) / b*)."""
    lightness, _, yellow = lab(np.median(albedo, axis=0)[None])[0]
    return math.degrees(math.atan2(lightness - 50, max(yellow, 1e-9)))


def tone_class(angle_deg: float) -> str:
    """Returns the class that an individual typology angle belongs to."""
    return CLASSES[sum(angle_deg <= limit for limit in _LIMITS_DEG)]
