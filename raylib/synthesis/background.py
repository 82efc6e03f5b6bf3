"""What is behind a head: drawn walls, rooms and blurs, or pictures from a folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import gaussian_filter

from raylib.errors import ConfigError
from raylib.lighting.color import srgb_to_linear

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def draw_background(
    rng: np.random.Generator, size: int, light: Float[np.ndarray, " 3"], folder: str | None
) -> Float[np.ndarray, "s s 3"]:
    """Returns a background in linear light.

    Args:
        rng: random numbers.
        size: side in pixels.
        light: colour of the scene's light.
        folder: pictures to take instead of drawn ones.
    """
    if folder is not None:
        files = pictures(folder)
        return _from_picture(rng, files[rng.integers(len(files))], size)
    kind = rng.choice(["wall", "blur", "room", "spots", "dark"], p=[0.25, 0.28, 0.27, 0.1, 0.1])
    tone = light / max(float(light.mean()), 1e-3)
    if kind == "dark":
        return (np.full((size, size, 3), 0.02) * tone * rng.uniform(0.1, 2) + 0.02 * _clouds(rng, size, 3)).astype(
            np.float32
        )
    base = rng.uniform(0.05, 0.7) * (1 + 0.5 * rng.normal(0, 0.4, 3))
    if kind == "wall":
        picture = (
            np.clip(base, 0.01, 1)
            * (0.75 + 0.5 * _slope(rng, size))[..., None]
            * (0.97 + 0.06 * _clouds(rng, size, 24))
        )
        return (picture * tone).astype(np.float32)
    if kind == "blur":
        first, second = rng.uniform(0.02, 0.8, 3), rng.uniform(0.02, 0.6, 3)
        mix = _clouds(rng, size, int(rng.integers(3, 9)))
        detail = _clouds(rng, size, int(rng.integers(10, 40)))
        return ((first * mix + second * (1 - mix)) * (0.85 + 0.3 * detail) * tone).astype(np.float32)
    picture = np.clip(base, 0.02, 1) * (0.8 + 0.4 * _slope(rng, size))[..., None] * np.ones((size, size, 3))
    if kind == "spots":
        y, x = np.mgrid[:size, :size] / size
        picture = picture * 0.15
        for _ in range(int(rng.integers(4, 20))):
            cx, cy, r = rng.random(), rng.random(), rng.uniform(0.02, 0.12)
            disc = np.clip((r - np.hypot(x - cx, y - cy)) * size / 2, 0, 1)
            picture += disc[..., None] * rng.uniform(0.1, 1.0, 3)
        return (picture * tone).astype(np.float32)
    for _ in range(int(rng.integers(3, 10))):
        w, h = rng.uniform(0.05, 0.6, 2) * size
        x0, y0 = rng.uniform(-0.1, 1.0, 2) * size
        colour = np.clip(base * rng.uniform(0.2, 2.2) * (1 + rng.normal(0, 0.35, 3)), 0.005, 1.2)
        picture[max(0, int(y0)) : max(0, int(y0 + h)), max(0, int(x0)) : max(0, int(x0 + w))] = colour
    picture *= 0.85 + 0.3 * _clouds(rng, size, 16)
    sigma = float(rng.uniform(0.002, 0.03)) * size
    return (gaussian_filter(picture, (sigma, sigma, 0)) * tone).astype(np.float32)


def _slope(rng: np.random.Generator, size: int) -> Float[np.ndarray, "s s"]:
    y, x = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    return np.asarray(0.5 + slope * rng.uniform(0, 1))


def _clouds(rng: np.random.Generator, size: int, cells: int) -> Float[np.ndarray, "s s 1"]:
    out = np.zeros((size, size), np.float32)
    for octave in range(3):
        small = rng.random((cells << octave, cells << octave), dtype=np.float32)
        out += np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)) * np.float32(
            0.57 * 0.5**octave
        )
    return out[..., None]


@lru_cache(maxsize=4)
def pictures(folder: str) -> tuple[Path, ...]:
    """Returns the picture files below a folder.

    Raises:
        ConfigError: there are none.
    """
    files = tuple(sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES))
    if not files:
        raise ConfigError(f"backgrounds is {folder!r}, expected a folder with pictures")
    return files


def _from_picture(rng: np.random.Generator, file: Path, size: int) -> Float[np.ndarray, "s s 3"]:
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"backgrounds has {file.name}, expected a picture: {error}") from error
    side = int(min(picture.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
    crop = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    linear = srgb_to_linear(torch.from_numpy(np.asarray(crop, dtype=np.float32) / 255)).numpy()
    sigma = float(rng.choice([0.0, 0.01, 0.03])) * size
    return gaussian_filter(linear, (sigma, sigma, 0)) if sigma > 0.3 else linear
