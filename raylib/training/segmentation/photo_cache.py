"""Labelled photographs as two byte arrays in memory: decoded once, square, all of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.datasets.labelled import IGNORE, LabelledPhoto
from raylib.runtime.progress import watched


def letterbox(
    image: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], size: int
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Returns photograph and labels scaled to fit a square, centred; the border is repeated and labelled IGNORE."""
    height, width = labels.shape
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - h) // 2, (size - w) // 2
    small = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    marks = Image.fromarray(labels).resize((w, h), Image.Resampling.NEAREST)
    around = ((top, size - h - top), (left, size - w - left))
    return (
        np.pad(np.asarray(small), (*around, (0, 0)), mode="edge"),
        np.pad(np.asarray(marks), around, constant_values=IGNORE),
    )


def cache_photos(
    photos: Sequence[LabelledPhoto], size: int
) -> tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]]:
    """Returns the photographs and their labels, letterboxed to `size` pixels (400 kB each at 320)."""
    images = np.empty((len(photos), size, size, 3), np.uint8)
    labels = np.empty((len(photos), size, size), np.uint8)
    for index, photo in enumerate(watched(photos, "photographs read")):
        images[index], labels[index] = letterbox(*photo.load(), size)
    return images, labels
