"""Faces in photographs: dlib's detectors, its 68 landmarks, and aligned crops that know their way back.

Works in image space (see `camera`): dlib counts pixels by their centres, so half a pixel is added to what it says.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.config import FaceSettings
from raylib.errors import ConfigError

DetectorName = Literal["hog", "cnn"]

_CNN_LEAST_SIDE = 80
_BOX_SHIFTS = 0.08 * np.array(
    [(0, 0, 0, 0), (1, 0, 1, 0), (-1, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1)], dtype=np.float32
)
"""Shifts of the detection box, in widths, from which landmarks are predicted."""


@dataclass(frozen=True)
class Face:
    """One detected face of a photograph, in its pixels.

    Attributes:
        face_box: left, top, right, bottom.
        score: the detector's; HOG's and the CNN's scales differ.
        detector: which one found it.
        landmarks: the 68 points in Multi-PIE / iBUG order.
        landmark_spread: how far the landmarks move, as a share of the face's size, when the box is moved a little.
            About 0.005 on frontal faces, 0.09 on profiles, where dlib's landmarks mean nothing.
    """

    face_box: Float[np.ndarray, " 4"]
    score: float
    detector: DetectorName
    landmarks: Float[np.ndarray, "68 2"]
    landmark_spread: float


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


def dlib_file(name: str) -> Path:
    """Returns the path of one of dlib's trained files.

    They come with the package face-recognition-models, which is located but never imported.

    Raises:
        ConfigError: the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package face-recognition-models is not installed; it carries dlib's trained files")
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / name
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; expected dlib's trained file from face-recognition-models")
    return path


class FaceDetector:
    """Finds faces and their landmarks; loads dlib's models once.

    Args:
        settings: what to look for and how hard.
    """

    def __init__(self, settings: FaceSettings):
        self.settings = settings
        self._hog = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(dlib_file("shape_predictor_68_face_landmarks.dat")))
        self._cnn: dlib.cnn_face_detection_model_v1 | None = None

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns the faces of a photograph, the largest first; ties by position."""
        s = self.settings
        found: list[tuple[np.ndarray, float, DetectorName]] = []
        if s.detector != "cnn":
            found = self._detect_hog(rgb, s.hog_upsample)
        if s.detector == "hog_then_cnn" and not found:
            found = self._detect_hog(rgb, s.hog_upsample + 1)
        if s.detector == "cnn" or (s.detector == "hog_then_cnn" and not found):
            found = self._detect_cnn(rgb)
        found.sort(key=lambda f: (-float((f[0][2] - f[0][0]) * (f[0][3] - f[0][1])), *f[0].tolist()))
        return [
            Face(box, score, detector, *self.landmarks(rgb, box)) for box, score, detector in found[: s.max_faces]
        ]

    def _detect_hog(self, rgb: np.ndarray, upsample: int) -> list[tuple[np.ndarray, float, DetectorName]]:
        s = self.settings
        small, scale = _resized(rgb, s.detect_max_side, enlarge=False)
        boxes, scores, _ = self._hog.run(small, upsample, s.hog_min_score)
        return [(_box(b, scale), float(score), "hog") for b, score in zip(boxes, scores, strict=True)]

    def _detect_cnn(self, rgb: np.ndarray) -> list[tuple[np.ndarray, float, DetectorName]]:
        s = self.settings
        if self._cnn is None:
            self._cnn = dlib.cnn_face_detection_model_v1(str(dlib_file("mmod_human_face_detector.dat")))
        small, scale = _resized(rgb, s.cnn_max_side, enlarge=True)
        # The network cannot take a picture that is smaller than its filters.
        short = [(0, max(0, _CNN_LEAST_SIDE - side)) for side in small.shape[:2]]
        small = np.pad(small, (*short, (0, 0))) if any(pad for _, pad in short) else small
        found = [d for d in self._cnn(small, 0) if d.confidence >= s.cnn_min_score]
        return [(_box(d.rect, scale), float(d.confidence), "cnn") for d in found]

    def landmarks(
        self, rgb: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, " 4"]
    ) -> tuple[Float[np.ndarray, "68 2"], float]:
        """Returns the landmarks of a face in a known box, and how far they move with it.

        They are the median of predictions from several boxes around the face.

        Args:
            rgb: photograph.
            box: left, top, right, bottom, as a detector would give it.
        """
        looks = np.stack([self._predict(rgb, box + (box[2] - box[0]) * shift) for shift in _BOX_SHIFTS])
        landmarks = np.median(looks, axis=0)
        size = math.sqrt(max(float(np.prod(np.ptp(landmarks, axis=0))), 1.0))
        spread = float(np.linalg.norm(looks - looks.mean(axis=0), axis=2).mean()) / size
        return landmarks, spread

    def _predict(self, rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = (round(float(v) - 0.5) for v in box)
        shape = self._predictor(rgb, dlib.rectangle(left, top, right, bottom))
        return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float32) + 0.5


def _resized(rgb: np.ndarray, max_side: int, enlarge: bool) -> tuple[np.ndarray, float]:
    """Returns the photograph with its longer side at `max_side`, and how many photograph pixels one of it is."""
    longer = max(rgb.shape[:2])
    if longer == max_side or (longer < max_side and not enlarge):
        return rgb, 1.0
    scale = longer / max_side
    size = (max(1, round(rgb.shape[1] / scale)), max(1, round(rgb.shape[0] / scale)))
    how = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(rgb).resize(size, how, reducing_gap=2.0)), scale


def _box(rect: dlib.rectangle, scale: float) -> np.ndarray:
    corners = np.array([rect.left(), rect.top(), rect.right(), rect.bottom()], dtype=np.float32)
    return (corners + 0.5) * np.float32(scale)


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
    direction = across - np.array([-down[1], down[0]])
    length = float(np.linalg.norm(direction))
    direction = direction / length if length > 1e-6 else np.array([1.0, 0.0])
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
    pixels_per_pixel = float(np.linalg.norm(to_photo[:, 0]))
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ to_photo.T
    margin = 2 * pixels_per_pixel + 2
    low = np.floor(corners.min(axis=0) - margin).astype(int)
    high = np.ceil(corners.max(axis=0) + margin).astype(int)
    rows = np.clip(np.arange(low[1], high[1]), 0, rgb.shape[0] - 1)
    columns = np.clip(np.arange(low[0], high[0]), 0, rgb.shape[1] - 1)
    factor = max(1, int(pixels_per_pixel))
    patch = Image.fromarray(rgb[np.ix_(rows, columns)])
    patch = patch.reduce(factor) if factor > 1 else patch
    # Pillow's AFFINE maps pixel centres of the output to pixel centres of the input, as our spaces do.
    to_patch = to_photo.copy()
    to_patch[:, 2] -= low
    to_patch /= factor
    crop = patch.transform(
        (size, size), Image.Transform.AFFINE, tuple(to_patch.ravel().tolist()), Image.Resampling.BICUBIC
    )
    return FaceCrop(np.asarray(crop), to_photo)
