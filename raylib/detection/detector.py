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

from raylib.config import FaceSearchSettings
from raylib.detection import search as face_search
from raylib.detection.search import Detection
from raylib.errors import ConfigError

DetectorName = Literal["hog", "cnn"]

_CNN_MIN_SIDE = 80
_BOX_SHIFTS = 0.08 * np.array(
    [(0, 0, 0, 0), (1, 0, 1, 0), (-1, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1)], dtype=np.float32
)
"""Shifts of the detection box, in widths, from which landmarks are predicted."""
_PORTRAIT_PX = 640  # a picture no larger than this that shows a face is a portrait
_PORTRAIT_SHARE = 1 / 3  # and one whose shorter side a face fills by this
_ROTATED_PX = 640  # longer side of the copies in which tilted faces are looked for
_UPRIGHT_DEG = 12.0  # a face that tilts further is turned upright before its landmarks are predicted
_PATCH_BOX_PX = 160  # side of the detection box in such a turned patch, and of the patch in boxes
_PATCH_BOXES = 1.8
_SURE_SCORE, _SURE_MIRROR = 0.5, 0.06  # a face that scores and mirrors better is what the detector takes it for
MIRRORED_LANDMARKS = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),
    ]
)
"""For each landmark, the one that takes its place in a mirror."""


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
        mirror_error: how far they lie from those found in the mirrored picture, as a share of the face's size.
    """

    face_box: Float[np.ndarray, " 4"]
    score: float
    detector: DetectorName
    landmarks: Float[np.ndarray, "68 2"]
    landmark_spread: float
    mirror_error: float = 0.0


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

    def __init__(self, settings: FaceSearchSettings):
        self.settings = settings
        self._hog = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(dlib_file("shape_predictor_68_face_landmarks.dat")))
        self._cnn: dlib.cnn_face_detection_model_v1 | None = None

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns the faces of a photograph, the largest first; ties by position."""
        s = self.settings
        faces: list[Face] = []
        if s.detector != "cnn":
            faces = self._hog_faces(rgb)
        if s.detector == "cnn" or (s.detector == "hog_then_cnn" and not faces):
            faces = self._cnn_faces(rgb)
        faces.sort(key=lambda f: (-float((f.face_box[2:] - f.face_box[:2]).prod()), *f.face_box.tolist()))
        return faces[: s.max_faces]

    def _hog_faces(self, rgb: np.ndarray) -> list[Face]:
        """Looks at the whole, then at finer levels where small faces may hide, then for tilted ones."""
        s, longer = self.settings, max(rgb.shape[:2])
        coarse = max(1.0, longer / s.detect_max_side)
        found = face_search.whole(rgb, lambda p: self._hog_sightings(p, s.hog_upsample), coarse)
        if not self._portrait(rgb.shape, found):
            grey, looked_at = _grey(rgb), coarse / 2**s.hog_upsample
            for scale in face_search.finer_scales(rgb.shape, looked_at, s.search_megapixels):
                found += face_search.in_tiles(grey, self._hog_sightings, scale, face_search.distinct(found))
        found = face_search.distinct(found)
        faces = [self._face(rgb, d, "hog") for d in found]
        doubtful = not faces or not all(_sure(face) for face in faces)
        return self._tilted(rgb, found, faces) if s.any_roll and (doubtful or coarse > 1) else faces

    def _portrait(self, shape: tuple[int, ...], found: list[Detection]) -> bool:
        """Tells whether a picture is so small, or so filled by a face, that no small faces are looked for besides."""
        if not found or max(shape[:2]) > self.settings.detect_max_side:
            return False
        largest = max(float(d.box[2] - d.box[0]) for d in found)
        return max(shape[:2]) <= _PORTRAIT_PX or largest >= _PORTRAIT_SHARE * min(shape[:2])

    def _tilted(self, rgb: np.ndarray, found: list[Detection], faces: list[Face]) -> list[Face]:
        """Returns the faces with those that tilt added; of a doubtful face, the look that explains it better."""
        reduced = max(1.0, max(rgb.shape[:2]) / _ROTATED_PX)
        small = face_search.resized(_grey(rgb), reduced)
        sightings = [
            Detection(d.box * np.float32(reduced), d.score, d.roll_deg)
            for roll in face_search.ROTATIONS_DEG
            for d in face_search.rotated(small, self._hog_sightings, roll)
        ]
        sure = [d for d, face in zip(found, faces, strict=True) if _sure(face)]
        new = face_search.distinct([d for d in sightings if not face_search.among(d, sure)])
        tilted = [(d, face) for d, face in ((d, self._face(rgb, d, "hog")) for d in new) if _sure(face)]
        upright = [
            face
            for d, face in zip(found, faces, strict=True)
            if _sure(face) or not face_search.among(d, [t for t, _ in tilted])
        ]
        return upright + [face for _, face in tilted]

    def _hog_sightings(self, rgb: np.ndarray, upsample: int = 0) -> list[Detection]:
        boxes, scores, _ = self._hog.run(rgb, upsample, self.settings.hog_min_score)
        return [Detection(_box(b, 1.0), float(score)) for b, score in zip(boxes, scores, strict=True)]

    def _cnn_faces(self, rgb: np.ndarray) -> list[Face]:
        """Looks with the network, which sees faces at any roll and does not say which: the steadiest landmarks do."""
        s = self.settings
        if self._cnn is None:
            self._cnn = dlib.cnn_face_detection_model_v1(str(dlib_file("mmod_human_face_detector.dat")))
        scale = max(rgb.shape[:2]) / s.cnn_max_side
        small = face_search.resized(rgb, scale)
        # The network cannot take a picture that is smaller than its filters.
        short = [(0, max(0, _CNN_MIN_SIDE - side)) for side in small.shape[:2]]
        small = np.pad(small, (*short, (0, 0))) if any(pad for _, pad in short) else small
        faces = []
        for d in self._cnn(small, 0):
            if d.confidence < s.cnn_min_score:
                continue
            box, score = _box(d.rect, scale), float(d.confidence)
            face = self._face(rgb, Detection(box, score), "cnn")
            if s.any_roll and not steady(face):
                turned = self._turned(rgb, box, score)
                face = turned if turned is not None and steady(turned) else face
            faces.append(face)
        return faces

    def _turned(self, rgb: np.ndarray, box: np.ndarray, score: float) -> Face | None:
        """Returns a face of unknown roll at the one at which HOG sees it best; None where it does at none."""
        best, best_roll = -math.inf, 0.0
        for roll in face_search.ROTATIONS_DEG:
            patch = UprightPatch.of(rgb, box, roll)
            seen = max((d.score for d in self._hog_sightings(_grey(patch.rgb))), default=-math.inf)
            if seen > best:
                best, best_roll = seen, roll
        return self._face(rgb, Detection(box, score, best_roll), "cnn") if best > -math.inf else None

    def face_in(self, rgb: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, " 4"]) -> Face:
        """Returns what the landmark predictor makes of a box, as of an upright face that HOG scores 0."""
        return self._face(rgb, Detection(box, 0.0), "hog", fixed=True)

    def _face(self, rgb: np.ndarray, seen: Detection, detector: DetectorName, fixed: bool = False) -> Face:
        """Returns the face of a sighting with its landmarks, predicted where it stands upright."""
        roll = seen.roll_deg
        marks, spread = None, 0.0
        if abs(roll) <= _UPRIGHT_DEG:
            marks, spread = self.landmarks(rgb, seen.box)
            roll = 0.0 if fixed else _roll_deg(marks)
        box = seen.box
        patch = UprightPatch.of(rgb, box, roll)
        if marks is None or abs(roll) > _UPRIGHT_DEG:
            for _ in range(3):
                inside, spread = self.landmarks(patch.rgb, patch.box)
                further = _roll_deg(inside)
                if abs(further) <= _UPRIGHT_DEG / 2 or not self.settings.any_roll:
                    break
                roll += further
                patch = UprightPatch.of(rgb, box, roll)
            else:
                inside, spread = self.landmarks(patch.rgb, patch.box)
            marks = patch.to_photo(inside)
        mirrored = self._predict(np.ascontiguousarray(patch.rgb[:, ::-1]), patch.box)[MIRRORED_LANDMARKS]
        mirrored[:, 0] = patch.rgb.shape[1] - mirrored[:, 0]
        mirror_error = float(np.linalg.norm(patch.to_photo(mirrored) - marks, axis=1).mean()) / _size(marks)
        return Face(box, seen.score, detector, marks.astype(np.float32), spread, mirror_error)

    def landmarks(
        self, rgb: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, " 4"]
    ) -> tuple[Float[np.ndarray, "68 2"], float]:
        """Returns the landmarks of an upright face in a known box, and how far they move with it.

        They are the median of predictions from several boxes around the face.

        Args:
            rgb: photograph.
            box: left, top, right, bottom, as a detector would give it.
        """
        looks = np.stack([self._predict(rgb, box + (box[2] - box[0]) * shift) for shift in _BOX_SHIFTS])
        landmarks = np.median(looks, axis=0)
        spread = float(np.linalg.norm(looks - looks.mean(axis=0), axis=2).mean()) / _size(landmarks)
        return landmarks, spread

    def _predict(self, rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = (round(float(v) - 0.5) for v in box)
        shape = self._predictor(rgb, dlib.rectangle(left, top, right, bottom))
        return np.array([(p.x, p.y) for p in shape.parts()], dtype=np.float32) + 0.5


@dataclass(frozen=True)
class UprightPatch:
    """A square part of a photograph, turned so that a face in it stands upright.

    Attributes:
        rgb: pixels; what lies outside the photograph repeats its border.
        box: the face's detection box in it.
        matrix: affine map from patch to photograph.
    """

    rgb: UInt8[np.ndarray, "s s 3"]
    box: Float[np.ndarray, " 4"]
    matrix: Float[np.ndarray, "2 3"]

    @staticmethod
    def of(rgb: UInt8[np.ndarray, "h w 3"], box: Float[np.ndarray, " 4"], roll_deg: float) -> UprightPatch:
        """Returns the patch around a detection box of a face that tilts clockwise by `roll_deg`."""
        centre, side = (box[:2] + box[2:]) / 2, max(float((box[2:] - box[:2]).max()), 1.0)
        size = round(_PATCH_BOXES * _PATCH_BOX_PX)
        scale, angle = side / _PATCH_BOX_PX, math.radians(roll_deg)
        linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = np.concatenate([linear, (centre - linear @ (size / 2, size / 2))[:, None]], axis=1)
        low, high = (size - _PATCH_BOX_PX) / 2, (size + _PATCH_BOX_PX) / 2
        inside = np.array([low, low, high, high], dtype=np.float32)
        return UprightPatch(sampled(rgb, matrix, size, Image.Resampling.BILINEAR), inside, matrix)

    def to_photo(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Returns points of the patch in the photograph."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def _grey(rgb: np.ndarray) -> np.ndarray:
    """Returns a picture's luminance: HOG takes a third less time for it and scores the same."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def _size(landmarks: np.ndarray) -> float:
    return math.sqrt(max(float(np.prod(np.ptp(landmarks, axis=0))), 1.0))


def level(landmarks: np.ndarray) -> np.ndarray:
    """Returns the unit vector from the right eye to the left of an upright head, corrected by eyes and mouth."""
    eye_right, eye_left = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    across, down = eye_left - eye_right, (landmarks[48] + landmarks[54] - eye_right - eye_left) / 2
    direction = across - np.array([-down[1], down[0]])
    length = float(np.linalg.norm(direction))
    return direction / length if length > 1e-6 else np.array([1.0, 0.0])


def _roll_deg(landmarks: np.ndarray) -> float:
    across = level(landmarks)
    return math.degrees(math.atan2(float(across[1]), float(across[0])))


def steady(face: Face) -> bool:
    """Tells whether landmarks stay where they are when the box moves or the picture is mirrored."""
    return face.mirror_error <= _SURE_MIRROR and face.landmark_spread <= _SURE_MIRROR


def _sure(face: Face) -> bool:
    """Tells whether a face is beyond doubt what an upright look takes it for."""
    return face.score >= _SURE_SCORE and steady(face)


def _box(rect: dlib.rectangle, scale: float) -> np.ndarray:
    corners = np.array([rect.left(), rect.top(), rect.right(), rect.bottom()], dtype=np.float32)
    return (corners + 0.5) * np.float32(scale)


def _bordered(
    part: UInt8[np.ndarray, "h w 3"], across: tuple[int, int], down: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a picture with its border repeated outwards, or cut off where a number is negative."""
    rows = np.arange(-down[0], len(part) + down[1]).clip(0, len(part) - 1)
    wide = np.empty((len(part), part.shape[1] + across[0] + across[1], 3), np.uint8)
    wide[:, across[0] : across[0] + part.shape[1]] = part
    wide[:, : across[0]] = part[:, :1]
    wide[:, across[0] + part.shape[1] :] = part[:, -1:]
    return wide[rows]


def sampled(rgb: np.ndarray, to_photo: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    """Returns a square of `size` pixels that shows where an affine map takes it, smoothed before it is reduced."""
    pixels_per_pixel = float(np.linalg.norm(to_photo[:, 0]))
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ to_photo.T
    margin = 2 * pixels_per_pixel + 2
    low = np.floor(corners.min(axis=0) - margin).astype(int)
    high = np.ceil(corners.max(axis=0) + margin).astype(int)
    factor = max(1, int(pixels_per_pixel))
    first = np.clip(low, 0, np.array(rgb.shape[1::-1]) - 1)
    last = np.clip(high, first + 1, rgb.shape[1::-1])
    part = rgb[first[1] : last[1], first[0] : last[0]]
    beyond = [(int(a), int(b)) for a, b in zip(first - low, high - last, strict=True)]
    if any(max(pair) > 0 for pair in beyond):
        part = _bordered(part, *beyond)
    patch = Image.fromarray(part)
    patch = patch.reduce(factor) if factor > 1 else patch
    # Pillow's AFFINE maps pixel centres of the output to pixel centres of the input, as our spaces do.
    to_patch = to_photo.copy()
    to_patch[:, 2] -= low
    to_patch /= factor
    square = patch.transform((size, size), Image.Transform.AFFINE, tuple(to_patch.ravel().tolist()), how)
    return np.asarray(square)
