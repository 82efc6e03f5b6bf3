"""FASSEG (Benini et al. 2019) in its authors' folders: frontal V1 and V2, multi-pose V3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.datasets.labelled import LabelledPhoto, Listing
from raylib.errors import ConfigError
from raylib.segmentation.labels import snap_to_labels

VERSIONS = ("V1", "V2", "V3")
_SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png")
# V3 is made of Pointing'04 photographs: personne, two digits of person, series, running number, tilt, pan.
_POINTING = re.compile(r"personne(\d{2})\d+[+-]\d+[+-]\d+$")

# The frontal split leaks: these training photographs show people who stand in the test folder too (the first six
# are the same files).
TRAIN_IN_TEST = {
    "15": "26", "16": "17", "17": "13", "18": "20", "19": "23", "20": "44",
    "3": "1", "6": "5", "1": "3", "7": "7", "5": "6", "10": "8",
}  # fmt: skip


def _read_labels(photo: LabelledPhoto, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    with Image.open(photo.label_path) as file:
        return snap_to_labels(np.asarray(file.convert("RGB")))


def _photo_files(folder: Path) -> dict[str, Path]:
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    }


def _splits(version: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields (train or test, folder of photographs, folder of labels); both spellings of the latter exist."""
    for split in ("Train", "Test"):
        photos = version / f"{split}_RGB"
        if not photos.is_dir():
            continue
        spellings = [version / f"{split}_{word}" for word in ("Labels", "labels")]
        folder = next((path for path in spellings if path.is_dir()), None)
        if folder is None:
            raise ConfigError(f"{photos} has no labels, expected {spellings[0]} or {spellings[1]}")
        yield split.lower(), photos, folder


def _person(version: str, split: str, stem: str) -> str:
    if version == "V3":
        match = _POINTING.match(Path(stem).name)
        return f"V3/{match.group(1)}" if match else f"V3/{Path(stem).name}"
    # V1 and V2 number their photographs within each folder. One name for a person who stands in both.
    if split == "train" and stem in TRAIN_IN_TEST:
        return f"frontal/test/{TRAIN_IN_TEST[stem]}"
    return f"frontal/{split}/{stem}"


def _yaw(version: str, stem: str) -> float | None:
    if version != "V3":
        return 0.0
    try:
        return float(Path(stem).parts[0])
    except ValueError:
        return None


def list_fasseg(root: str | Path, versions: tuple[str, ...] = ("V2", "V3")) -> Listing:
    """Returns the labelled photographs of a FASSEG folder.

    V1 and V2 hold the same people with coarser and finer labels: list one of them. A person who stands in the
    frontal training and test folders has one name, so that a split by person does not leak.

    Args:
        root: folder with `V1`, `V2` or `V3` in it, each with `Train_RGB`, `Train_Labels` and so on.
        versions: which of them to list.

    Raises:
        ConfigError: a version is unknown or absent, or has no label folder.
    """
    root = Path(root)
    photos: list[LabelledPhoto] = []
    left_out: list[str] = []
    for version in versions:
        if version not in VERSIONS:
            raise ConfigError(f"FASSEG version is {version!r}, expected one of {list(VERSIONS)}")
        splits = list(_splits(root / version))
        if not splits:
            raise ConfigError(
                f"FASSEG folder is {root}, expected {version}/Train_RGB and {version}/Train_Labels in it"
            )
        for split, photo_folder, label_folder in splits:
            labels, files = _photo_files(label_folder), _photo_files(photo_folder)
            left_out += [
                f"{labels[stem]}: no photograph in {photo_folder}" for stem in sorted(labels.keys() - files.keys())
            ]
            for stem, path in files.items():
                if stem not in labels:
                    left_out.append(f"{path}: no labels in {label_folder}")
                    continue
                with Image.open(path) as photo, Image.open(labels[stem]) as label:
                    sizes = photo.size, label.size
                if sizes[0] != sizes[1]:
                    left_out.append(f"{path}: {sizes[0]} pixels, its labels {sizes[1]}")
                    continue
                photos.append(
                    LabelledPhoto(
                        dataset="fasseg",
                        name=f"{version}/{split}/{stem}",
                        person=_person(version, split, stem),
                        yaw_deg=_yaw(version, stem),
                        image_path=path,
                        label_path=labels[stem],
                        read_labels=_read_labels,
                    )
                )
    return Listing(tuple(photos), tuple(left_out))
