"""CelebAMask-HQ (Lee et al. 2020): palette masks, or the original folders with one file per part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.datasets.labelled import (
    CELEBAMASK_CLASSES,
    CELEBAMASK_TO_LABEL,
    DARK_GLASSES_LABEL,
    LabelledPhoto,
    Listing,
    lookup,
)
from raylib.errors import ConfigError

_TO_LABEL = lookup(CELEBAMASK_CLASSES, CELEBAMASK_TO_LABEL)
_GLASSES = CELEBAMASK_CLASSES.index("eye_g")
_EYES = (CELEBAMASK_CLASSES.index("l_eye"), CELEBAMASK_CLASSES.index("r_eye"))
# The order in which the parts are laid over each other: as in the palette, but eyes show through glasses.
_PAINT_ORDER = (*(name for name in CELEBAMASK_CLASSES if name not in ("l_eye", "r_eye", "hair", "hat")),
                "l_eye", "r_eye", "hair", "hat")  # fmt: skip


def to_labels(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Returns the declared labels of a mask of CelebAMask class numbers."""
    labels = _TO_LABEL[mask]
    glasses = mask == _GLASSES
    if glasses.any() and not np.isin(mask, _EYES).any():
        labels[glasses] = DARK_GLASSES_LABEL
    return labels


def _fit(labels: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Returns labels at the photograph's (height, width); the set's masks are 512, its photographs 1024 pixels."""
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _read_palette_mask(photo: LabelledPhoto, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    with Image.open(photo.label_path) as file:
        mask = np.asarray(file)
    if mask.ndim != 2 or mask.max(initial=0) >= len(CELEBAMASK_CLASSES):
        raise ConfigError(
            f"{photo.label_path} is no palette mask, expected one channel of class numbers below "
            f"{len(CELEBAMASK_CLASSES)}"
        )
    return _fit(to_labels(mask), size)


def _read_part_masks(photo: LabelledPhoto, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    mask: UInt8[np.ndarray, "h w"] | None = None
    for part in _PAINT_ORDER:
        path = photo.label_path / f"{int(photo.name):05d}_{part}.png"
        if not path.is_file():
            continue
        with Image.open(path) as file:
            present = np.asarray(file.convert("L")) > 127
        mask = np.zeros(present.shape, np.uint8) if mask is None else mask
        mask[present] = CELEBAMASK_CLASSES.index(part)
    if mask is None:
        raise ConfigError(f"no part mask of photograph {photo.name} in {photo.label_path}")
    return _fit(to_labels(mask), size)


def _list_palette(root: Path) -> Listing:
    masks = {path.stem: path for path in (root / "masks").glob("*.png")}
    photos, left_out = [], []
    for path in sorted((root / "images").iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            left_out.append(f"{path}: no photograph")
        elif path.stem not in masks:
            left_out.append(f"{path}: no mask {path.stem}.png in {root / 'masks'}")
        else:
            photos.append(
                LabelledPhoto("celebamask", path.stem, path.stem, None, path, masks[path.stem], _read_palette_mask)
            )
    return Listing(tuple(photos), tuple(left_out))


def _list_original(root: Path) -> Listing:
    masks = root / "CelebAMask-HQ-mask-anno"
    labelled = {int(path.name.split("_", 1)[0]) for path in masks.glob("*/*_skin.png")}
    photos, left_out = [], []
    for path in (root / "CelebA-HQ-img").glob("*.jpg"):
        number = int(path.stem)
        if number not in labelled:
            left_out.append(f"{path}: no skin mask in {masks}")
            continue
        # The authors put 2000 photographs' masks into each of 15 numbered folders.
        folder = masks / str(number // 2000)
        photos.append(LabelledPhoto("celebamask", path.stem, path.stem, None, path, folder, _read_part_masks))
    return Listing(tuple(sorted(photos, key=lambda photo: int(photo.name))), tuple(sorted(left_out)))


def list_celebamask(root: str | Path) -> Listing:
    """Returns the labelled photographs of a CelebAMask-HQ folder; the set does not say who is seen.

    Args:
        root: folder with `images/` and `masks/` (palette masks), or the authors' `CelebAMask-HQ` folder with
            `CelebA-HQ-img/` and `CelebAMask-HQ-mask-anno/0..14/`.

    Raises:
        ConfigError: neither layout is there.
    """
    root = Path(root)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return _list_palette(root)
    if (root / "CelebA-HQ-img").is_dir() and (root / "CelebAMask-HQ-mask-anno").is_dir():
        return _list_original(root)
    raise ConfigError(
        f"CelebAMask-HQ folder is {root}, expected images/ and masks/ in it, or CelebA-HQ-img/ and "
        "CelebAMask-HQ-mask-anno/"
    )
