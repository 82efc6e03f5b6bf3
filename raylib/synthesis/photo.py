"""What a camera makes of linear light: exposure, colour balance, blur, noise, tone curve, JPEG."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter1d

from raylib.lighting.color import linear_to_srgb

_MIDDLE_SKIN = 0.25
_METERING = 0.3  # share of the skin's brightness, in stops, that exposure makes up for


@dataclass(frozen=True)
class CameraEffects:
    """One camera's faults.

    Attributes:
        exposure: factor on the light.
        balance: factors on red and blue.
        vignette: loss in the corners.
        blur_px: deviation of a Gaussian.
        motion_px: length of a level or upright smear, negative for upright.
        shot_noise: deviation of the noise at full brightness that grows with the root of the light.
        read_noise: deviation of the noise in the dark.
        contrast: strength of an S-curve on the tone.
        shrink: side of the picture that was enlarged again, as a share.
        jpeg_quality: 0 for none.
    """

    exposure: float = 1.0
    balance: tuple[float, float] = (1.0, 1.0)
    vignette: float = 0.0
    blur_px: float = 0.0
    motion_px: int = 0
    shot_noise: float = 0.0
    read_noise: float = 0.0
    contrast: float = 0.0
    shrink: float = 1.0
    jpeg_quality: int = 0

    def as_dict(self) -> dict[str, object]:
        """Returns the fields, ready for JSON."""
        return asdict(self)


def draw_effects(rng: np.random.Generator, size: int, skin: float = _MIDDLE_SKIN) -> CameraEffects:
    """Returns a random camera; most are nearly good.

    Args:
        rng: random numbers.
        size: side of the picture.
        skin: brightness of the skin's albedo. A camera that meters the face makes up for some of it.
    """
    metered = float(np.clip((_MIDDLE_SKIN / max(skin, 1e-3)) ** _METERING, 0.8, 1.8))
    return CameraEffects(
        exposure=metered * float(np.exp(rng.normal(0.0, 0.16))),
        balance=(float(np.exp(rng.normal(0, 0.05))), float(np.exp(rng.normal(0, 0.07)))),
        vignette=float(rng.beta(1, 5) * 0.5),
        blur_px=float(rng.gamma(1.2, 0.35)) * size / 256 + 0.15,
        motion_px=int(rng.integers(2, 6)) * int(rng.choice([-1, 1])) if rng.random() < 0.06 else 0,
        shot_noise=float(rng.gamma(1.2, 0.012)),
        read_noise=float(rng.gamma(1.2, 0.0025)),
        contrast=float(rng.uniform(0.3, 1.0)),
        shrink=float(rng.uniform(0.4, 0.8)) if rng.random() < 0.15 else 1.0,
        jpeg_quality=int(rng.integers(55, 98)) if rng.random() < 0.8 else 0,
    )


def photograph(
    clean: Float[np.ndarray, "h w 3"], effects: CameraEffects, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the 8-bit picture of linear light.

    Args:
        clean: linear light.
        effects: of the camera.
        rng: of the noise.
    """
    height, width = clean.shape[:2]
    light = clean * (
        np.array([effects.balance[0], 1.0, effects.balance[1]], np.float32) * np.float32(effects.exposure)
    )
    if effects.vignette:
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        light = light * (1 - np.float32(effects.vignette) * ((x * x + y * y) / 2)).astype(np.float32)[..., None]
    if effects.blur_px > 0.2:
        light = gaussian_filter(light, (effects.blur_px, effects.blur_px, 0), truncate=2.5)
    if effects.motion_px:
        light = uniform_filter1d(light, abs(effects.motion_px), axis=0 if effects.motion_px < 0 else 1)
    if effects.shot_noise or effects.read_noise:
        deviation = np.sqrt(effects.shot_noise**2 * np.maximum(light, 0) + effects.read_noise**2)
        light = light + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    tone = linear_to_srgb(torch.from_numpy(np.clip(light, 0, 1, dtype=np.float32))).numpy()
    if effects.contrast:
        tone = tone + effects.contrast * (tone * tone * (3 - 2 * tone) - tone)
    picture = Image.fromarray((tone * 255 + 0.5).astype(np.uint8))
    if effects.shrink < 1:
        small = (max(8, round(width * effects.shrink)), max(8, round(height * effects.shrink)))
        picture = picture.resize(small, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BICUBIC)
    if effects.jpeg_quality:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=effects.jpeg_quality)
        picture = Image.open(buffer).convert("RGB")
    return np.asarray(picture)
