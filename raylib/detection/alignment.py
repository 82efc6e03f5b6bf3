"""Aligned crops of faces that know their way back to the photograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.detection.detector import level, sampled


@dataclass(frozen=True)
class FaceCrop:
    """An upright square crop around a face, with its way back to the photograph.

    Attributes:
        rgb: pixels; what lies outside the photograph repeats its border.
        to_photo: affine map from crop to photograph, pixels to pixels: `photo = to_photo @ (x, y, 1)`.
    """

    rgb: UInt8[np.ndarray, "s s 3"]
    to_photo: Float[np.ndarray, "2 3"]

    def points_to_photo(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Returns points of the crop in the photograph."""
        return points @ self.to_photo[:, :2].T + self.to_photo[:, 2]

    def points_from_photo(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Returns points of the photograph in the crop."""
        return np.linalg.solve(self.to_photo[:, :2], (points - self.to_photo[:, 2]).T).T


def crop_transform(landmarks: Float[np.ndarray, "68 2"], size: int, widen: float = 1.0) -> Float[np.ndarray, "2 3"]:
    """Returns the map from an aligned crop of `size` x `size` pixels to the photograph.

    Upright means that the line between the eyes, corrected by the one from eyes to mouth, is level. At
    `widen` = 1 the crop's side is 4 distances between the eyes' centres, or 3.6 from the eyes to the mouth if that
    is more, and holds the head with hair and chin; the construction follows Karras et al. 2019, appendix C, which
    keeps its size as the head turns.
    """
    eye_right, eye_left = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    eyes = (eye_right + eye_left) / 2
    mouth = (landmarks[48] + landmarks[54]) / 2
    across, down = eye_left - eye_right, mouth - eyes
    direction = level(landmarks)
    half = widen * max(2.0 * float(np.linalg.norm(across)), 1.8 * float(np.linalg.norm(down)), 1.0)
    ex, ey = direction * half, np.array([-direction[1], direction[0]]) * half
    centre = eyes + 0.1 * down
    linear = np.stack([ex, ey], axis=1) * (2.0 / size)
    return np.concatenate([linear, (centre - ex - ey)[:, None]], axis=1).astype(np.float64)


def crop_face(
    rgb: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "68 2"], size: int = 256, widen: float = 1.0
) -> FaceCrop:
    """Returns the aligned crop around a face, smoothed before it is reduced.

    Args:
        rgb: photograph.
        landmarks: the face's 68 points in it.
        size: side of the crop in pixels.
        widen: see `crop_transform`.
    """
    to_photo = crop_transform(landmarks, size, widen)
    return FaceCrop(sampled(rgb, to_photo, size, Image.Resampling.BICUBIC), to_photo)


def reduced(
    image: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], size: int
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
    """Returns a square crop and its label map at the size of a network's input."""
    small = Image.fromarray(image).resize((size, size), Image.Resampling.BOX, reducing_gap=None)
    marks = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(marks)
