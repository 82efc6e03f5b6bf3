"""Face crops with label maps, all of one size, as two byte arrays: what a mesh network trains on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from raylib.datasets.labelled import IGNORE, LabelledPhoto
from raylib.detection.alignment import CROP_PX, crop_face, reduced
from raylib.detection.detector import FaceDetector, steady
from raylib.errors import ImageError
from raylib.io.images import decode
from raylib.segmentation.labels import Label
from raylib.segmentation.segmenter import FaceSegmenter


@dataclass(frozen=True)
class FaceSet:
    """Face crops and what their pixels show.

    Attributes:
        images: sRGB.
        labels: `segmentation.labels.Label`; what lies outside a photograph is background.
    """

    images: UInt8[np.ndarray, "n s s 3"]
    labels: UInt8[np.ndarray, "n s s"]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index: slice | np.ndarray) -> FaceSet:
        """Returns the faces at `index`."""
        return FaceSet(self.images[index], self.labels[index])

    @classmethod
    def of(cls, faces: Sequence[tuple[np.ndarray, np.ndarray]], size: int) -> FaceSet:
        """Returns a set of pairs of crop and label map."""
        images = np.zeros((len(faces), size, size, 3), np.uint8)
        labels = np.zeros((len(faces), size, size), np.uint8)
        for number, (image, marks) in enumerate(faces):
            images[number], labels[number] = image, marks
        return cls(images, labels)

    @classmethod
    def joined(cls, sets: Sequence[FaceSet]) -> FaceSet:
        """Returns all faces of several sets."""
        return cls(np.concatenate([s.images for s in sets]), np.concatenate([s.labels for s in sets]))


def cache_file(folder: Path, key: dict[str, Any]) -> Path:
    """Returns where the faces of a key wait, or will; see `cached`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"faces-{digest}.npz"


def cached(folder: Path, key: dict[str, Any], make: Callable[[], FaceSet]) -> FaceSet:
    """Returns the faces that `make` prepares, from the folder if they were prepared before for the same key.

    Args:
        folder: where prepared faces wait, one file a key.
        key: everything that the faces depend on, ready for JSON.
        make: prepares them.
    """
    path = cache_file(folder, key)
    if path.exists():
        with np.load(path) as arrays:
            return FaceSet(arrays["images"], arrays["labels"])
    faces = make()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, images=faces.images, labels=faces.labels)
    partial.replace(path)
    return faces


def labelled_face(photo: LabelledPhoto, size: int, detector: FaceDetector | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns crop and labels of a labelled photograph.

    Args:
        photo: not yet read.
        size: side of the crop in pixels.
        detector: finds the face to cut out, or None; where there is none or it finds nothing, the picture's middle
            square is taken whole.
    """
    image, labels = photo.load()
    labels = np.where(labels == IGNORE, np.uint8(Label.BACKGROUND), labels)
    found = detector(image) if detector is not None else []
    if found:
        crop = crop_face(image, found[0].landmarks, CROP_PX)
        # Beyond the photograph the crop repeats its border, which the labels call background.
        at = np.mgrid[0:CROP_PX, 0:CROP_PX][::-1].reshape(2, -1) + 0.5
        x, y = np.floor(crop.to_photo[:, :2] @ at + crop.to_photo[:, 2:]).astype(int)
        inside = (x >= 0) & (y >= 0) & (x < labels.shape[1]) & (y < labels.shape[0])
        marks = np.full(CROP_PX**2, np.uint8(Label.BACKGROUND))
        marks[inside] = labels[y[inside], x[inside]]
        return reduced(crop.rgb, marks.reshape(CROP_PX, CROP_PX), size)
    side = min(labels.shape)
    top, left = (labels.shape[0] - side) // 2, (labels.shape[1] - side) // 2
    window = slice(top, top + side), slice(left, left + side)
    return reduced(image[window], labels[window], size)


def photographed_faces(
    path: Path, size: int, detector: FaceDetector, segmenter: FaceSegmenter, max_pixels: int = 200_000_000
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns crop and labels of every face in a photograph; none where it cannot be read or shows none.

    Args:
        path: image file.
        size: side of the crops in pixels.
        detector: finds the faces; those whose landmarks are not to be trusted are left out.
        segmenter: labels them.
        max_pixels: larger photographs are left out.
    """
    try:
        rgb = decode(path.read_bytes(), max_pixels).rgb
    except (ImageError, OSError):
        return []
    crops = [crop_face(rgb, face.landmarks, CROP_PX).rgb for face in detector(rgb) if steady(face)]
    if not crops:
        return []
    labels = segmenter.segment(np.stack(crops))
    return [reduced(crop, marks, size) for crop, marks in zip(crops, labels, strict=True)]
