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

_GREY_PX = 128  # side of the crop in which the picture's own evidence is looked for
_SHEARS = np.arange(-0.2, 0.21, 0.04)  # slopes of the seams that are looked for
_FAR = 4.0  # standard deviations beyond which evidence counts no more


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
    """A logistic regression on standardised features.

    Attributes:
        names: of the features.
        means, spreads: by which a feature is standardised.
        weights: of the standardised features, clamped to four standard deviations; one that is NaN counts as 0.
        bias: log odds where all features are at their means.
    """

    names: tuple[str, ...]
    means: Float[np.ndarray, " f"]
    spreads: Float[np.ndarray, " f"]
    weights: Float[np.ndarray, " f"]
    bias: float

    def standardised(self, features: Mapping[str, float]) -> Float[np.ndarray, " f"]:
        """Returns the features in standard deviations from their means."""
        values = (np.array([features[name] for name in self.names]) - self.means) / self.spreads
        return np.nan_to_num(values, nan=0.0).clip(-_FAR, _FAR)

    def __call__(self, features: Mapping[str, float]) -> float:
        """Returns the probability, 0 to 1."""
        return 1 / (1 + math.exp(-float(self.standardised(features) @ self.weights) - self.bias))


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
    """Returns how plain a face's surfaces are, and how marked a straight seam through it is, both as logarithms.

    Skin is shaded everywhere, so that the median gradient is a good part of the mean one; drawings are plain between
    lines. A seam is a line, across or along the face, on which half of all pixels or more have a gradient.

    Args:
        crop: aligned crop of the face.
        landmarks: in its pixels.
    """
    scale = _GREY_PX / len(crop)
    grey = np.asarray(
        Image.fromarray(crop).convert("L").resize((_GREY_PX, _GREY_PX), Image.Resampling.BOX), np.float32
    )
    points = landmarks * scale
    eyes, chin = points[36:48], points[8]
    low = np.array([points[[36, 48]].min(axis=0)[0], points[17:27, 1].mean()])
    high = np.array([points[[45, 54]].max(axis=0)[0], (points[57, 1] + chin[1]) / 2])
    x0, y0 = np.clip(np.minimum(low, eyes.min(axis=0)), 4, _GREY_PX - 28).astype(int)
    x1, y1 = np.clip(high, (x0 + 20, y0 + 20), _GREY_PX - 4).astype(int)
    across = np.abs(grey[:, 2:] - grey[:, :-2])  # column j is about x = j + 1
    along = np.abs(grey[2:] - grey[:-2])
    inner_across, inner_along = across[y0:y1, x0 - 1 : x1 - 1], along[y0 - 1 : y1 - 1, x0:x1]
    gradient = np.hypot(inner_across, inner_along)
    plainness = math.log((float(np.median(gradient)) + 0.5) / (float(gradient.mean()) + 0.5))
    usual = float(np.median(np.concatenate([inner_across.ravel(), inner_along.ravel()])))
    marked = max(_line(inner_across), _line(inner_along.T))
    return plainness, math.log((marked + 2) / (usual + 2))


def _line(gradient: Float[np.ndarray, "n m"]) -> float:
    """Returns the largest median of gradients along a line that runs through all rows."""
    rows, columns = gradient.shape
    y = np.arange(rows) - rows / 2
    shift = np.rint(_SHEARS[:, None] * y).astype(int)
    at = np.arange(columns) + shift[:, :, None]
    inside = (at >= 0) & (at < columns)
    values = gradient[np.arange(rows)[None, :, None], at.clip(0, columns - 1)]
    # Lines that leave the region count as far as they run, if that is most of their length.
    values = np.where(inside, values, 0)
    return float(np.median(values, axis=1).max())
