"""The loss that the U-Net is trained with: cross-entropy with class weights plus soft Dice, picture by picture."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from raylib.datasets.labelled import IGNORE

# Milder than inverse frequency (eyes are 0.6 % of the pixels): Dice already balances the classes, and heavy weights
# make the small parts too large.
CLASS_WEIGHTS = (1.0, 1.0, 1.0, 3.5, 1.8, 2.0)


def segmentation_loss(logits: Float[Tensor, "b k h w"], labels: UInt8[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Returns the mean over the pictures of weighted cross-entropy + (1 - Dice).

    Each picture's loss depends on that picture alone, never on how many pixels or classes its neighbours have, so
    that averaging gradients over workers equals one process with the whole batch. Dice is the mean over the
    classes a picture shows (Milletari, Navab and Ahmadi 2016, with squared terms). Pixels with the label IGNORE do
    not count.
    """
    logits = logits.float()
    valid = labels != IGNORE
    target = torch.where(valid, labels, 0).long()
    weights = logits.new_tensor(CLASS_WEIGHTS)
    pixels = valid.sum((1, 2)).clamp_min(1)
    entropy = functional.cross_entropy(logits, target, weight=weights, reduction="none")
    entropy = (entropy * valid).sum((1, 2)) / pixels
    shown = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
    truth = shown.to(logits.dtype)
    guess = logits.softmax(1) * valid[:, None]
    overlap = (guess * truth).sum((2, 3))
    total = (guess * guess).sum((2, 3)) + truth.sum((2, 3))
    present = truth.sum((2, 3)) > 0
    dice = ((2 * overlap + 1) / (total + 1) * present).sum(1) / present.sum(1).clamp_min(1)
    return (entropy + 1 - dice).mean()
