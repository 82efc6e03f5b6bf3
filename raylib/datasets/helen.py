"""HELEN: the part masks of Smith et al. 2013 and the 194 landmarks of Le et al. 2012."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.datasets.labelled import HELEN_CLASSES, HELEN_TO_LABEL, LabelledPhoto, lookup
from raylib.errors import ConfigError

LISTS = ("exemplars", "tuning", "testing")
_TO_LABEL = lookup(HELEN_CLASSES, HELEN_TO_LABEL)


@dataclass(frozen=True)
class HelenListing:
    """What a folder of Smith et al. 2013 holds.

    Attributes:
        exemplars: photographs of `exemplars.txt`, to learn from.
        tuning: photographs of `tuning.txt`, to choose by.
        testing: photographs of `testing.txt`.
        left_out: one sentence for each listed photograph that is not there whole.
    """

    exemplars: tuple[LabelledPhoto, ...]
    tuning: tuple[LabelledPhoto, ...]
    testing: tuple[LabelledPhoto, ...]
    left_out: tuple[str, ...]


def _mask_path(folder: Path, number: int) -> Path:
    return folder / f"{folder.name}_lbl{number:02d}.png"


def _read_soft_masks(photo: LabelledPhoto, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Returns the most probable part's label; ties go to the lower number, so that nothing at all is background."""
    best = np.zeros(size, np.uint8)
    part = np.zeros(size, np.uint8)
    for number in range(len(HELEN_CLASSES)):
        path = _mask_path(photo.label_path, number)
        with Image.open(path) as file:
            probability = np.asarray(file.convert("L"))
        if probability.shape != size:
            raise ConfigError(f"{path} is {probability.shape} pixels, expected {size} as {photo.image_path}")
        better = probability > best
        best[better] = probability[better]
        part[better] = number
    return _TO_LABEL[part]


def _names(path: Path) -> list[str]:
    """Returns the photographs of a list file; a line is a running number, a comma and a name."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    names = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 2 or not parts[1]:
            raise ConfigError(f"{path} line {number} is {line!r}, expected a number, a comma and a photograph's name")
        names.append(parts[1])
    return names


def list_helen(root: str | Path) -> HelenListing:
    """Returns HELEN's photographs with the part masks of Smith et al. 2013.

    Their skin excludes ears and neck, which are background here and skin in the other sets; training therefore
    passes over HELEN's background.

    Args:
        root: folder with `images/NAME.jpg`, `labels/NAME/NAME_lbl00.png` to `_lbl10.png`, `exemplars.txt`,
            `tuning.txt` and `testing.txt`.

    Raises:
        ConfigError: the folder is not laid out so.
    """
    root = Path(root)
    missing = [
        name for name in ("images", "labels", *(f"{name}.txt" for name in LISTS)) if not (root / name).exists()
    ]
    if missing:
        raise ConfigError(
            f"HELEN folder is {root}, expected {', '.join(missing)} in it (layout of Smith et al. 2013)"
        )
    photos: dict[str, list[LabelledPhoto]] = {name: [] for name in LISTS}
    left_out = []
    for split in LISTS:
        for name in _names(root / f"{split}.txt"):
            image, labels = root / "images" / f"{name}.jpg", root / "labels" / name
            absent = [
                path
                for path in (image, *(_mask_path(labels, n) for n in range(len(HELEN_CLASSES))))
                if not path.is_file()
            ]
            if absent:
                left_out.append(f"{split} photograph {name}: {absent[0]} is missing")
            else:
                photos[split].append(LabelledPhoto("helen", name, name, None, image, labels, _read_soft_masks))
    return HelenListing(
        tuple(photos["exemplars"]), tuple(photos["tuning"]), tuple(photos["testing"]), tuple(left_out)
    )


def read_landmarks(path: str | Path) -> tuple[str, Float[np.ndarray, "194 2"]]:
    """Returns the photograph's name and its 194 points in pixels from one file of HELEN's own `annotation` folder.

    The points run along the jaw, the nose, the lips, the eyes and the brows; each is a line `x , y` after the line
    with the name.

    Raises:
        ConfigError: the file does not hold a name and 194 points.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"HELEN annotation is {path}, expected a text file there")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    try:
        points = np.array([[float(part) for part in line.split(",")] for line in lines[1:]], dtype=np.float32)
    except ValueError as error:
        raise ConfigError(f"HELEN annotation {path}: expected lines 'x , y' after the name: {error}") from error
    if points.shape != (194, 2):
        raise ConfigError(
            f"HELEN annotation {path} has {len(lines) - 1} lines after the name, expected 194 of 'x , y'"
        )
    return lines[0], points
