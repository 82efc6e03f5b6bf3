"""Pictures of the same examples over the epochs of a training, which its report shows under a slider."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

STRIP_FACES = 8
"""Examples in each picture of the strip."""

FOLDER = "strip"
ORIGINAL = "original.png"
"""What the examples are in truth; the pictures of the epochs are called epoch_00012.png."""


def strip_index(count: int) -> Int[np.ndarray, " n"]:
    """Returns which of so many examples are shown, evenly spread."""
    return np.linspace(0, count - 1, STRIP_FACES).round().astype(int)


def row_of(pictures: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "h bw 3"]:
    """Returns pictures beside each other."""
    return np.concatenate(list(pictures), axis=1)


def write_strip(out: Path, epoch: int, strip: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes the picture of an epoch into the folder of a training's results."""
    _write(out, f"epoch_{epoch:05d}.png", strip)


def write_originals(out: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes what the examples are in truth, in the same order."""
    _write(out, ORIGINAL, picture)


def has_strip(out: Path) -> bool:
    """Tells whether a folder of results holds the picture of any epoch."""
    return any((out / FOLDER).glob("epoch_*.png"))


def stacked_strip(out: Path) -> Image.Image:
    """Returns the truth and the pictures of the epochs one below the other, the oldest first."""
    folder = out / FOLDER
    paths = [path for path in (folder / ORIGINAL,) if path.exists()] + sorted(folder.glob("epoch_*.png"))
    return Image.fromarray(np.concatenate([np.asarray(Image.open(path).convert("RGB")) for path in paths]))


def _write(out: Path, name: str, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name)
