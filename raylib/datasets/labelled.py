"""One labelled photograph, whatever set it comes from, and the tables from each set's labels to the declared six."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.errors import ConfigError
from raylib.segmentation.labels import Label

IGNORE = 255
"""Label of pixels that count neither in a loss nor in a metric (outside the photograph)."""

# Every mapping onto the declared set stands here. Where the sets differ, FASSEG's convention rules: brows are hair,
# ears and neck are skin, clothes are background, teeth and tongue are mouth. Left and right parts share a label, so
# that a mirrored picture needs no other names.

CELEBAMASK_CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""CelebAMask-HQ's parts in the order of its palette masks."""

CELEBAMASK_TO_LABEL = {
    "background": Label.BACKGROUND,
    "skin": Label.SKIN,
    "nose": Label.NOSE,
    # FASSEG labels what is seen through clear glasses; dark ones cover the eyes, see DARK_GLASSES_LABEL.
    "eye_g": Label.SKIN,
    "l_eye": Label.EYES,
    "r_eye": Label.EYES,
    "l_brow": Label.HAIR,
    "r_brow": Label.HAIR,
    "l_ear": Label.SKIN,
    "r_ear": Label.SKIN,
    "mouth": Label.MOUTH,
    "u_lip": Label.MOUTH,
    "l_lip": Label.MOUTH,
    "hair": Label.HAIR,
    # What covers the head is no part of it: hats and jewellery go where clothes go.
    "hat": Label.BACKGROUND,
    "ear_r": Label.BACKGROUND,
    "neck_l": Label.BACKGROUND,
    "neck": Label.SKIN,
    "cloth": Label.BACKGROUND,
}

DARK_GLASSES_LABEL = Label.BACKGROUND
"""What CelebAMask's `eye_g` becomes in a picture with glasses and not one labelled eye pixel: an occluder."""

HELEN_CLASSES = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "upper_lip", "inner_mouth",
    "lower_lip", "hair",
)  # fmt: skip
"""The soft masks of Smith et al. 2013 in the order of their file numbers, 00 to 10."""

HELEN_TO_LABEL = {
    "background": Label.BACKGROUND,
    "skin": Label.SKIN,
    "left_brow": Label.HAIR,
    "right_brow": Label.HAIR,
    "left_eye": Label.EYES,
    "right_eye": Label.EYES,
    "nose": Label.NOSE,
    "upper_lip": Label.MOUTH,
    "inner_mouth": Label.MOUTH,
    "lower_lip": Label.MOUTH,
    "hair": Label.HAIR,
}


def lookup(classes: tuple[str, ...], table: dict[str, Label]) -> UInt8[np.ndarray, n]:
    """Returns the declared label of each class number of a set."""
    return np.array([table[name] for name in classes], dtype=np.uint8)


@dataclass(frozen=True)
class LabelledPhoto:
    """A photograph with a label per pixel, not yet read.

    Attributes:
        dataset: `fasseg`, `celebamask` or `helen`.
        name: unique within the set.
        person: who is seen, unique within the set; the photograph's own name where a set does not say.
        yaw_deg: head turn where the set states it.
        image_path: the photograph.
        label_path: mask file, or the folder that holds the part masks.
        read_labels: reads `label_path` for a photograph of (height, width) pixels into the declared labels.
    """

    dataset: str
    name: str
    person: str
    yaw_deg: float | None
    image_path: Path
    label_path: Path
    read_labels: Callable[[LabelledPhoto, tuple[int, int]], UInt8[np.ndarray, "h w"]]

    def load(self) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns the RGB photograph and the declared label of each of its pixels.

        Raises:
            ConfigError: a file cannot be read, or photograph and labels do not fit each other.
        """
        try:
            with Image.open(self.image_path) as file:
                image = np.asarray(file.convert("RGB"))
            labels = self.read_labels(self, image.shape[:2])
        except OSError as error:
            raise ConfigError(
                f"{self.dataset} {self.name}: cannot read {self.image_path} or its labels: {error}"
            ) from error
        if labels.shape != image.shape[:2]:
            raise ConfigError(
                f"{self.dataset} {self.name}: labels are {labels.shape}, expected {image.shape[:2]} as "
                f"{self.image_path}"
            )
        return image, labels


@dataclass(frozen=True)
class Listing:
    """What a dataset folder holds.

    Attributes:
        photos: usable photographs, sorted by name.
        left_out: one sentence for each file that was not used.
    """

    photos: tuple[LabelledPhoto, ...]
    left_out: tuple[str, ...]


def split_by_person(
    photos: tuple[LabelledPhoto, ...], held_out: set[str]
) -> tuple[tuple[LabelledPhoto, ...], tuple[LabelledPhoto, ...]]:
    """Returns (the other persons' photographs, the held-out persons' photographs).

    Raises:
        ConfigError: a held-out person is in no photograph.
    """
    unknown = held_out - {photo.person for photo in photos}
    if unknown:
        known = sorted({photo.person for photo in photos})
        raise ConfigError(f"held-out person {sorted(unknown)[0]!r} is in no photograph, expected one of {known}")
    return (
        tuple(photo for photo in photos if photo.person not in held_out),
        tuple(photo for photo in photos if photo.person in held_out),
    )
