"""Training of the cascade of linear regressions: ridge regression, one step after the other."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raylib.camera import Camera
from raylib.crop_fit import CropFit
from raylib.fit_cascade import FitCascade, cascade_features, descriptor_maps, posed
from raylib.morphable import LinearFaceModel
from raylib.progress import watched
from raylib.training.face_augmentation import FaceAugmentation, coefficient_solver, reframed
from raylib.training.face_meshnet_loss import vertex_weights
from raylib.training.face_samples import FaceSampleBatch, FaceSamples, FaceTruth

_BATCH = 64


def rotation_vector(R: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """Returns axis times angle of rotations below half a turn; the inverse of `camera.rotation_from_vector`."""
    skew = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], dim=1) / 2
    sine = skew.norm(dim=1)
    cosine = (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return skew * (torch.atan2(sine, cosine) / sine.clamp(min=1e-8))[:, None]


class StepTargets:
    """Steps of pose, identity and expression that would bring a fit to the truth.

    Args:
        model: the face model.
        ridge: how strongly coefficients are held to zero where vertices say nothing, square millimetres.
    """

    def __init__(self, model: LinearFaceModel, ridge: float = 0.02):
        self._weight = vertex_weights(model).sqrt()
        self._solve = coefficient_solver(model, self._weight, ridge)
        self._model = model

    def __call__(self, fit: CropFit, truth: FaceTruth) -> Float[Tensor, "b c"]:
        """Returns turn, shift, log depth, identity and expression, as `fit_cascade.posed` takes them."""
        moved = ((truth.verts_mm - self._model.mean) * self._weight[:, None]).flatten(1)
        coefficients = moved @ self._solve.T
        low, high = self._model.expression_bounds.unbind(1)
        k = len(self._model.identity)
        coefficients = torch.cat([coefficients[:, :k], coefficients[:, k:].clamp(low, high)], dim=1)
        turn = rotation_vector(truth.camera.R @ fit.camera.R.transpose(1, 2))
        shift = _origin(truth.camera) - _origin(fit.camera)
        depth = fit.camera.focal_px / truth.camera.focal_px * truth.camera.T[:, 2] / fit.camera.T[:, 2]
        steps = coefficients - torch.cat([fit.identity, fit.expression], dim=1)
        return torch.cat([turn, shift, depth.log()[:, None], steps], dim=1)


def _origin(camera: Camera) -> Float[Tensor, "b 2"]:
    return camera.T[:, :2] / camera.T[:, 2:] * camera.focal_px[:, None] + camera.principal_px


def ridge_weights(x: Float[Tensor, "n f"], y: Float[Tensor, "n c"], ridge: float) -> Float[Tensor, "f c"]:
    """Returns the weights of the ridge regression of y on x, both centred; the penalty is a share of the rows."""
    gram = x.T @ x
    gram.diagonal().add_(ridge * len(x))
    return torch.cholesky_solve(x.T @ y, torch.linalg.cholesky(gram))


def _ridge(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns weights, bias, mean and spread of the ridge regression of y on standardised x (changed in place)."""
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-4)
    x.sub_(mean).div_(spread).clamp_(-6, 6)
    # Extreme fits must not steer the plane: their targets are cut at four deviations.
    centre, reach = y.mean(0), 4 * y.std(0)
    weight = ridge_weights(x, (y - centre).clamp(-reach, reach), ridge)
    return weight, centre, mean, spread


@torch.no_grad()
def train_cascade(
    model: LinearFaceModel,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    steps: int,
    ridge: float,
    seed: int = 0,
) -> FitCascade:
    """Returns the cascade of so many steps that ridge regression finds over samples with truth.

    Every sample counts twice: as it is, and mirrored, reframed and with landmarks nearer to the truth, since on
    photographs, for which it was made, the detector errs less than on synthetic faces.

    Args:
        model: the face model.
        samples: samples.
        index: which of them.
        steps: of the cascade.
        ridge: penalty, as a share of the number of samples, on features of variance one.
        seed: of the changes.
    """
    change, targets = FaceAugmentation(model), StepTargets(model)
    rng = Generator().manual_seed(seed)
    batches: list[FaceSampleBatch] = []
    for start in range(0, len(index), _BATCH):
        batch = samples.batch(index[start : start + _BATCH])
        changed = change.relandmarked(reframed(change.mirrored(batch), rng), rng)
        batches += [batch, changed]
    maps = [tuple(m.half() for m in descriptor_maps(b.images, b.labels)) for b in batches]
    truths, fits = [b.truth for b in batches], [b.fit for b in batches]
    del batches
    found = []
    for number in range(steps):
        rows, wanted = [], []
        together = list(zip(maps, fits, truths, strict=True))
        for one, fit, truth in watched(together, f"batches of the cascade's step {number + 1} of {steps}"):
            rows.append(cascade_features((one[0].float(), one[1].float()), fit, model))
            wanted.append(targets(fit, truth))
        x = torch.cat(rows)
        sizes = [len(r) for r in rows]
        del rows
        weight, bias, mean, spread = _ridge(x, torch.cat(wanted), ridge)
        found.append((weight, bias, mean, spread))
        moved = (x @ weight + bias).split(sizes)
        fits = [posed(fit, step, model) for fit, step in zip(fits, moved, strict=True)]
    weights, biases, means, spreads = (torch.stack(list(parts)) for parts in zip(*found, strict=True))
    return FitCascade(weights, biases, means, spreads)
