"""The colour of skin from what is in it: melanin above, blood below, between white collagen.

Two layers. Light passes the epidermis twice, where melanin absorbs, and comes back from the dermis, where blood
absorbs and collagen scatters. Absorption of melanosomes, of skin without either and scattering of skin are the fits
of Jacques, "Optical properties of biological tissues: a review", Phys. Med. Biol. 58 (2013); haemoglobin is the
compilation of Prahl ("Optical absorption of hemoglobin", Oregon Medical Laser Center, 1999). The dermis reflects as
a half space of diffusion theory does (Donner and Jensen, "A spectral BSSRDF for shading human skin", EGSR 2006,
section 3). Spectra become linear sRGB under D65 by the analytic colour matching functions of Wyman, Sloan and
Shirley (JCGT 2013).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

MELANIN = (0.003, 0.36)
"""Share of the epidermis that melanosomes fill, palest to darkest of the table."""
BLOOD = (0.002, 0.16)
"""Share of the dermis that blood fills, least to most of the table; lips are redder than skin."""
TABLE = 48
"""Entries of the table along either axis, evenly spaced in the logarithm."""

_WAVELENGTHS = np.arange(400.0, 701.0, 10.0)
# cm^-1 / (mol / litre)
_OXYGENATED = np.array([
    266232, 466840, 480360, 246072, 102580, 62816, 44480, 33209, 26629, 23684, 20932, 20035, 24202, 39957, 53236,
    43016, 32613, 44496, 50104, 14401, 3200, 1506, 942, 610, 442, 368, 320, 294, 278, 276, 290,
], dtype=np.float64)  # fmt: skip
_DEOXYGENATED = np.array([
    223296, 303956, 407560, 528600, 413280, 103292, 23389, 16156, 14550, 16684, 20862, 25774, 31590, 39036, 46592,
    53412, 53788, 45072, 37020, 28325, 14677, 9444, 6510, 5149, 4345, 3750, 3227, 2795, 2408, 2052, 1794,
], dtype=np.float64)  # fmt: skip
_HAEMOGLOBIN = 150.0 / 64500.0  # mol / litre of whole blood
_EPIDERMIS_CM = 0.006
_OBLIQUE = 2.0  # mean path of diffuse light through a layer, in thicknesses
_OXYGENATION = 0.75
_REFRACTIVE_INDEX = 1.4
_SCATTERING = 68.7  # cm^-1 at 500 nm, reduced: the upper end of Jacques' table, since faces are paler than its mean
_HORN = 0.03  # what the horny layer sends back before any pigment


def _colour_matching() -> Float[np.ndarray, "w 3"]:
    w = _WAVELENGTHS

    def lobe(peak: float, below: float, above: float) -> Float[np.ndarray, " w"]:
        return np.asarray(np.exp(-0.5 * ((w - peak) * np.where(w < peak, below, above)) ** 2))

    x = (
        0.362 * lobe(442.0, 0.0624, 0.0374)
        + 1.056 * lobe(599.8, 0.0264, 0.0323)
        - 0.065 * lobe(501.1, 0.0490, 0.0382)
    )
    y = 0.821 * lobe(568.8, 0.0213, 0.0247) + 0.286 * lobe(530.9, 0.0613, 0.0322)
    z = 1.217 * lobe(437.0, 0.0845, 0.0278) + 0.681 * lobe(459.0, 0.0385, 0.0725)
    return np.stack([x, y, z], axis=1)


_XYZ_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
# D65 every 10 nm from 400 to 700.
_D65 = np.array([
    82.75, 91.49, 93.43, 86.68, 104.86, 117.01, 117.81, 114.86, 115.92, 108.81, 109.35, 107.80, 104.79, 107.69,
    104.41, 104.05, 100.00, 96.33, 95.79, 88.69, 90.01, 89.60, 87.70, 83.29, 83.70, 80.03, 80.21, 82.28, 78.28,
    69.72, 71.61,
])  # fmt: skip


def skin_reflectance(melanin: Float[np.ndarray, "*n"], blood: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n w"]:
    """Returns the share of light that skin reflects from 400 to 700 nm in steps of 10 nm.

    Args:
        melanin: share of the epidermis that melanosomes fill.
        blood: share of the dermis that blood fills.
    """
    w = _WAVELENGTHS
    bare = 0.244 + 85.3 * np.exp(-(w - 154.0) / 66.2)  # cm^-1, Jacques 2013 after Saidi
    melanosome = 6.6e11 * w**-3.33
    molar = _OXYGENATION * _OXYGENATED + (1 - _OXYGENATION) * _DEOXYGENATED
    whole_blood = 2.303 * _HAEMOGLOBIN * molar
    m, b = np.asarray(melanin)[..., None], np.asarray(blood)[..., None]
    epidermis = np.exp(-_OBLIQUE * _EPIDERMIS_CM * (m * melanosome + (1 - m) * bare))
    absorbed = b * whole_blood + (1 - b) * bare
    scattered = _SCATTERING * (w / 500.0) ** -1.421
    albedo = scattered / (absorbed + scattered)
    inside = -1.440 / _REFRACTIVE_INDEX**2 + 0.710 / _REFRACTIVE_INDEX + 0.668 + 0.0636 * _REFRACTIVE_INDEX
    mismatch = (1 + inside) / (1 - inside)
    depth = np.sqrt(3 * (1 - albedo))
    dermis = albedo / 2 * (1 + np.exp(-4 / 3 * mismatch * depth)) * np.exp(-depth)
    return np.asarray(_HORN + (1 - _HORN) * epidermis**2 * dermis)


def spectrum_to_rgb(reflectance: Float[np.ndarray, "*n w"]) -> Float[np.ndarray, "*n 3"]:
    """Returns linear sRGB of surfaces with these spectra under D65; white is (1, 1, 1)."""
    weights = _colour_matching() * _D65[:, None]
    to_rgb = weights @ _XYZ_TO_RGB.T
    return np.asarray(reflectance @ (to_rgb / to_rgb.sum(0)))


@lru_cache(maxsize=1)
def skin_table() -> Float[np.ndarray, "m b 3"]:
    """Returns linear sRGB of skin over melanin (rows) and blood (columns), each from least to most."""
    melanin, blood = (np.geomspace(*span, TABLE) for span in (MELANIN, BLOOD))
    rgb = spectrum_to_rgb(skin_reflectance(melanin[:, None] + 0 * blood, blood + 0 * melanin[:, None]))
    return np.clip(rgb, 1e-3, 1).astype(np.float32)


def table_row(melanin: float) -> float:
    """Returns the row of `skin_table` of a share of melanosomes."""
    return float(np.log(melanin / MELANIN[0]) / np.log(MELANIN[1] / MELANIN[0]) * (TABLE - 1))


def table_column(blood: float) -> float:
    """Returns the column of `skin_table` of a share of blood."""
    return float(np.log(blood / BLOOD[0]) / np.log(BLOOD[1] / BLOOD[0]) * (TABLE - 1))
