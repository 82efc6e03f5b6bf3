"""How well label maps agree: confusion matrices, scores per class, boundary F1, confidence intervals over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8
from scipy import ndimage

from raylib.metrics.bootstrap import bootstrap_draws


def confusion_matrix(
    truth: UInt8[np.ndarray, "*shape"], guess: UInt8[np.ndarray, "*shape"], num_classes: int, ignore: int = 255
) -> Int64[np.ndarray, "k k"]:
    """Returns the number of pixels of each true class (rows) that were given each class (columns).

    Args:
        truth: true classes; pixels of class `ignore` do not count.
        guess: predicted classes, below `num_classes`.
        num_classes: k.
        ignore: class in `truth` that is left out.
    """
    counts = truth != ignore
    pairs = truth[counts].astype(np.int64) * num_classes + guess[counts]
    return np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class ClassScores:
    """Scores from confusion matrices; a class that is neither present nor predicted scores NaN.

    Attributes:
        precision: per class, share of the predicted pixels that are right.
        recall: per class, share of the true pixels that are found.
        f1: per class, harmonic mean of the two, also called Dice.
        iou: per class, intersection over union.
        pixel_accuracy: share of all pixels that are right.
    """

    precision: Float[np.ndarray, "*n k"]
    recall: Float[np.ndarray, "*n k"]
    f1: Float[np.ndarray, "*n k"]
    iou: Float[np.ndarray, "*n k"]
    pixel_accuracy: Float[np.ndarray, "*n"]

    @property
    def mean_f1(self) -> Float[np.ndarray, "*n"]:
        """Mean of F1 over the classes that are present or predicted."""
        return np.nanmean(self.f1, axis=-1)

    @property
    def mean_iou(self) -> Float[np.ndarray, "*n"]:
        """Mean of IoU over the classes that are present or predicted."""
        return np.nanmean(self.iou, axis=-1)


def class_scores(confusion: Int64[np.ndarray, "*n k k"]) -> ClassScores:
    """Returns the scores of one confusion matrix or of many."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ClassScores(
            precision=hit / predicted,
            recall=hit / true,
            f1=2 * hit / (true + predicted),
            iou=hit / (true + predicted - hit),
            pixel_accuracy=hit.sum(-1) / true.sum(-1),
        )


def boundary_counts(
    truth: UInt8[np.ndarray, "h w"], guess: UInt8[np.ndarray, "h w"], num_classes: int, tolerance_px: float
) -> Int64[np.ndarray, "k 4"]:
    """Returns, per class, how much of each outline lies near the other.

    The outline of a class is made of its pixels that touch another class (4-neighbours) or the map's border's
    inside; near means at most `tolerance_px` away (Csurka et al. 2013).

    Returns:
        Columns: predicted outline pixels near the true outline, predicted outline pixels, true outline pixels near
        the predicted outline, true outline pixels.
    """
    counts = np.zeros((num_classes, 4), np.int64)
    for label in range(num_classes):
        outlines = []
        for labels in (guess, truth):
            region = labels == label
            # The map's border is no outline: what lies beyond it is unknown.
            outlines.append(region & ~ndimage.binary_erosion(region, border_value=1))
        for column, (mine, other) in enumerate((outlines, outlines[::-1])):
            counts[label, 2 * column + 1] = mine.sum()
            if other.any() and mine.any():
                near = ndimage.distance_transform_edt(~other) <= tolerance_px
                counts[label, 2 * column] = (mine & near).sum()
    return counts


def boundary_f1(counts: Int64[np.ndarray, "*n k 4"]) -> Float[np.ndarray, "*n k"]:
    """Returns the harmonic mean of outline precision and recall from `boundary_counts`; NaN for an absent class."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = counts[..., 0] / counts[..., 1]
        recall = counts[..., 2] / counts[..., 3]
        score = 2 * precision * recall / (precision + recall)
    one_sided = (counts[..., 1] > 0) | (counts[..., 3] > 0)
    return np.where(one_sided, np.nan_to_num(score), np.nan)


def bootstrap_sums(
    per_image: Int64[np.ndarray, n * shape], resamples: int, seed: int
) -> Int64[np.ndarray, r * shape]:
    """Returns sums over images drawn with replacement, `resamples` times."""
    return np.tensordot(bootstrap_draws(len(per_image), resamples, seed), per_image, axes=1)
