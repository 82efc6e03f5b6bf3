"""How probable it is that a reconstruction shows the one upright-fitted face that the photograph holds.

A logistic regression on what detection, landmarks, fit and rendering say of a face. Its coefficients are measured on
faces and on what is none by `tests/benchmarks/bench_quality.py`, which writes `weights/quality.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_PLAIN_PX, _SEAM_PX = 128, 64  # sides of the crop in which the picture's own evidence is looked for
_SLOPES = np.linspace(-0.2, 0.2, 11)  # of the seams that are looked for
_BESIDE_PX, _EDGE = 3, 0.3
_USUAL, _FAR = 1.0, 8.0  # standard deviations from a good face's mean from which evidence counts, and to which
_FOR = ("hog_score", "plainness", "psnr")  # of which less than usual speaks against a face; of the rest, more


@dataclass(frozen=True)
class Evidence:
    """What is known of a reconstruction; NaN or None where a method does not say.

    Attributes:
        detector: hog or cnn.
        detector_score: on the detector's own scale.
        landmark_spread: movement of the landmarks with the detection box, share of the face's size.
        mirror_error: distance of the landmarks from the mirrored picture's, share of the face's size.
        landmark_nme: distance of fitted and detected landmarks, share of the distance of the outer eye corners.
        plainness: see `picture_evidence`.
        seam: see `picture_evidence`.
        psnr: of the rendering before refinement, dB.
        strangeness: how far the picture is from the training's (`FaceEstimates.strangeness`).
    """

    detector: str
    detector_score: float
    landmark_spread: float
    mirror_error: float
    landmark_nme: float
    plainness: float
    seam: float
    psnr: float | None = None
    strangeness: float | None = None

    def features(self) -> dict[str, float]:
        """Returns the numbers that the regression weighs, by name."""
        hog = self.detector == "hog"
        values = {
            "hog_score": min(self.detector_score, 1.5) if hog else math.nan,
            "cnn": 0.0 if hog else 1.0,
            "log_spread": math.log(self.landmark_spread + 1e-3),
            "log_mirror": math.log(self.mirror_error + 1e-3),
            "log_nme": math.log(self.landmark_nme + 1e-3),
            "plainness": self.plainness,
            "seam": self.seam,
        }
        if self.psnr is not None and self.strangeness is not None:
            values |= {"psnr": self.psnr, "strangeness": self.strangeness}
        return values


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on how unusual features are for a good face, so that one bad sign suffices.

    Attributes:
        names: of the features.
        means, spreads: of good faces.
        weights: log odds for each standard deviation beyond the first to the bad side, at most eight.
        bias: log odds where nothing is unusual.
    """

    names: tuple[str, ...]
    means: Float[np.ndarray, " f"]
    spreads: Float[np.ndarray, " f"]
    weights: Float[np.ndarray, " f"]
    bias: float

    def unusual(self, features: Mapping[str, float]) -> Float[np.ndarray, " f"]:
        """Returns how many standard deviations beyond the first each feature is to the bad side; 0 for NaN."""
        signs = np.array([-1.0 if name in _FOR else 1.0 for name in self.names])
        values = signs * (np.array([features[name] for name in self.names]) - self.means) / self.spreads
        return (np.nan_to_num(values, nan=0.0) - _USUAL).clip(0, _FAR)

    def __call__(self, features: Mapping[str, float]) -> float:
        """Returns the probability, 0 to 1."""
        return 1 / (1 + math.exp(-float(self.unusual(features) @ self.weights) - self.bias))


class Quality:
    """Tells how probable it is that a reconstruction is right; one calibration with light and one without."""

    def __init__(self) -> None:
        said = json.loads((files("raylib") / "weights" / "quality.json").read_text())
        self._calibrations = [calibration_of(said[name]) for name in ("landmarks", "rendered")]

    def __call__(self, evidence: Evidence) -> float:
        """Returns the probability, 0 to 1."""
        features = evidence.features()
        return self._calibrations["psnr" in features](features)


def calibration_of(said: Mapping[str, list[float]]) -> Calibration:
    """Returns a calibration from `weights/quality.json`: mean, spread and weight of each feature, and the bias."""
    names = tuple(name for name in said if name != "bias")
    table = np.array([said[name] for name in names])
    return Calibration(names, table[:, 0], table[:, 1], table[:, 2], float(said["bias"][0]))


def picture_evidence(crop: UInt8[np.ndarray, "s s 3"], landmarks: Float[np.ndarray, "68 2"]) -> tuple[float, float]:
    """Returns how plain a face's surfaces are, a logarithm, and how much of a straight seam runs through it, 0 to 1.

    Skin is shaded everywhere, so that a quarter of all gradients is no small part of the mean one; drawings are plain
    between lines. A seam is a straight line through the face and the whole crop, across or along it; counted are its
    pixels with a gradient, in colour and in tone, that the pixels beside them do not have.

    Args:
        crop: aligned crop of the face.
        landmarks: in its pixels.
    """
    picture = Image.fromarray(crop)
    rows, columns = _inner_face(landmarks / len(crop) * _PLAIN_PX, _PLAIN_PX)
    grey = picture.resize((_PLAIN_PX, _PLAIN_PX), Image.Resampling.BOX).convert("L")
    levels = np.asarray(grey, np.float32)[..., None]
    gradient = np.hypot(_gradient(levels)[1:-1], _gradient(levels.swapaxes(0, 1)).T[:, 1:-1])[rows, columns]
    plainness = math.log((float(np.quantile(gradient, 0.25)) + 0.3) / (float(gradient.mean()) + 0.5))
    rows, columns = _inner_face(landmarks / len(crop) * _SEAM_PX, _SEAM_PX)
    rgb = np.asarray(picture.resize((_SEAM_PX, _SEAM_PX), Image.Resampling.BOX), np.float32)
    tone = 255 * rgb[..., ::2] / (rgb.sum(axis=2, keepdims=True) + 60)  # red's and blue's share, whatever the light
    seams = [
        max(_seam(_gradient(layers), columns), _seam(_gradient(layers.swapaxes(0, 1)), rows))
        for layers in (rgb, tone)
    ]  # fmt: skip
    return plainness, sum(seams) / 2


def _inner_face(points: Float[np.ndarray, "68 2"], side: int) -> tuple[slice, slice]:
    """Returns rows and columns of a crop from the brows to below the mouth and between the outer eye corners."""
    low = np.minimum([points[48, 0], points[17:27, 1].mean()], points[36:48].min(axis=0))
    high = np.array([points[[45, 54], 0].max(), (points[57, 1] + points[8, 1]) / 2])
    least = side // 6
    x0, y0 = np.clip(low, 4, side - 4 - least).astype(int)
    x1, y1 = np.clip(high, (x0 + least, y0 + least), side - 4).astype(int)
    return slice(int(y0), int(y1)), slice(int(x0), int(x1))


def _gradient(layers: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w2"]:
    """Returns the length of the layers' differences from left to right, without the outer columns."""
    length: np.ndarray = np.sqrt(np.square(layers[:, 2:] - layers[:, :-2]).sum(axis=2))
    return length


def _seam(gradient: Float[np.ndarray, "n m"], columns: slice) -> float:
    """Returns the largest share of pixels, along a line through all rows, that are an edge to both sides."""
    rows, count = gradient.shape
    places = np.arange(columns.start - 1 - _BESIDE_PX, columns.stop - 1 + _BESIDE_PX)
    at = places + np.rint(_SLOPES[:, None] * (np.arange(rows) - rows / 2)).astype(int)[:, :, None]
    values = gradient[np.arange(rows)[None, :, None], at.clip(0, count - 1)]
    beside = np.maximum(values[:, :, : -2 * _BESIDE_PX], values[:, :, 2 * _BESIDE_PX :])
    edge = values[:, :, _BESIDE_PX:-_BESIDE_PX] - beside > _EDGE * (np.median(gradient) + 2)
    return float(edge.mean(axis=1).max())
