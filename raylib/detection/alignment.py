"""Aligned crops of faces that know their way back to the photograph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.detection.detector import Face, level, sampled

CROP_PX = 256
"""Side of the aligned crop that every reconstruction starts from."""
_PATCH_REACH = 1.0  # a patch reaches this many face sizes beyond the landmarks' square on each side, half of it


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


@dataclass(frozen=True)
class Patch:
    """The part of a photograph around a face, reduced where it is finer than any texture.

    Attributes:
        rgb: pixels.
        corner_px: position of its top left corner in the photograph.
        scale: photograph pixels per patch pixel.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    corner_px: Float[np.ndarray, " 2"]
    scale: float

    @staticmethod
    def of(rgb: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "68 2"], max_texture_px: int) -> Patch:
        """Returns the patch around a face.

        Args:
            rgb: photograph.
            landmarks: the face's 68 points in it.
            max_texture_px: largest side of a texture that is made of the patch.
        """
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        size = float((high - low).max())
        half = size * (0.5 + _PATCH_REACH / 2)
        centre = (low + high) / 2
        limit = np.array(rgb.shape[1::-1])
        # A face may lie outside the picture in part; at least one pixel stays.
        corner = np.clip(np.floor(centre - half).astype(int), 0, limit - 1)
        end = np.clip(np.ceil(centre + half).astype(int), corner + 1, limit)
        patch = rgb[corner[1] : end[1], corner[0] : end[0]]
        factor = int(size * 1.5 // max_texture_px)
        if factor > 1:
            patch = np.asarray(Image.fromarray(patch).reduce(factor))
        return Patch(np.ascontiguousarray(patch), corner.astype(np.float64), float(max(factor, 1)))


@dataclass(frozen=True)
class FoundFace:
    """A face, its aligned crop, and its patch of the photograph."""

    face: Face
    crop: FaceCrop
    patch: Patch


def cut_faces(rgb: UInt8[np.ndarray, "h w 3"], faces: Iterable[Face], max_texture_px: int) -> tuple[FoundFace, ...]:
    """Returns detected faces with what a reconstruction needs of the photograph, in the same order.

    Args:
        rgb: photograph.
        faces: detected in it.
        max_texture_px: largest side of a texture.
    """
    return tuple(
        FoundFace(face, crop_face(rgb, face.landmarks, CROP_PX), Patch.of(rgb, face.landmarks, max_texture_px))
        for face in faces
    )
