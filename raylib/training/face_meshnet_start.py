"""Where training begins: the linear part of the network by least squares.

From a few thousand samples ridge regression finds in seconds what dlib's landmarks, the fit's prior and the coarsest
vertices' colours say of the truth on average, errors of detector and assumed focal length included. Gradient steps
then learn what is not linear.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylib.camera import Camera
from raylib.fit_correction import CropFit, FitCorrector
from raylib.networks.face_meshnet import FaceMeshNet
from raylib.training.face_augmentation import coefficient_solver
from raylib.training.face_meshnet_loss import vertex_weights
from raylib.training.face_samples import FaceSamples, FaceTruth

_BATCH = 64


def rotation_vector(R: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """Returns axis times angle of rotations below half a turn; the inverse of `camera.rotation_from_vector`."""
    skew = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], dim=1) / 2
    sine = skew.norm(dim=1)
    cosine = (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return skew * (torch.atan2(sine, cosine) / sine.clamp(min=1e-8))[:, None]


class CoefficientTargets:
    """Corrections of pose, identity and expression that would bring a fit to the truth.

    Args:
        corrector: face model.
        ridge: how strongly coefficients are held to zero where vertices say nothing, square millimetres.
    """

    def __init__(self, corrector: FitCorrector, ridge: float = 0.02):
        self._weight = vertex_weights(corrector.model).sqrt()
        self._solve = coefficient_solver(corrector.model, self._weight, ridge)
        self._model = corrector.model

    def __call__(self, fit: CropFit, truth: FaceTruth) -> Float[Tensor, "b c"]:
        """Returns turn, shift, log depth, identity and expression, as `FaceCorrections` has them."""
        moved = ((truth.verts_mm - self._model.mean) * self._weight[:, None]).flatten(1)
        coefficients = moved @ self._solve.T
        low, high = self._model.expression_bounds.unbind(1)
        k = len(self._model.identity)
        coefficients = torch.cat([coefficients[:, :k], coefficients[:, k:].clamp(low, high)], dim=1)
        turn = rotation_vector(truth.camera.R @ fit.camera.R.transpose(1, 2))
        shift = _origin(truth.camera) - _origin(fit.camera)
        depth = fit.camera.focal_px / truth.camera.focal_px * truth.camera.T[:, 2] / fit.camera.T[:, 2]
        return torch.cat(
            [turn, shift, depth.log()[:, None], coefficients - torch.cat([fit.identity, fit.expression], dim=1)],
            dim=1,
        )


def _origin(camera: Camera) -> Float[Tensor, "b 2"]:
    return camera.T[:, :2] / camera.T[:, 2:] * camera.focal_px[:, None] + camera.principal_px


@torch.no_grad()
def start_with_least_squares(
    network: FaceMeshNet,
    corrector: FitCorrector,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    ridge: float = 0.5,
) -> None:
    """Sets the linear part of the network to the ridge regression over samples with truth.

    Args:
        network: changed in place, on the CPU.
        corrector: face model and average albedo, on the CPU.
        samples: samples.
        index: which of them.
        ridge: penalty, as a share of the features' number of samples, on features of variance one.
    """
    targets = CoefficientTargets(corrector)
    features, wanted = [], []
    for start in range(0, len(index), _BATCH):
        batch = samples.batch(index[start : start + _BATCH])
        inputs, _ = corrector.inputs(batch.images, batch.labels, batch.fit)
        features.append(network.direct_features(inputs))
        wanted.append(targets(batch.fit, batch.truth))
    x, y = torch.cat(features), torch.cat(wanted)
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-3)
    x = (x - mean) / spread
    # Extreme fits must not steer the plane: their targets are cut at four deviations.
    centre, reach = y.mean(0), 4 * y.std(0)
    y = centre + (y - centre).clamp(-reach, reach)
    n, d = x.shape
    if n < d:  # the dual form is the smaller one
        dual = x @ x.T + ridge * n * torch.eye(n)
        weight = x.T @ torch.linalg.solve(dual, y - centre)
    else:
        weight = torch.linalg.solve(x.T @ x + ridge * n * torch.eye(d), x.T @ (y - centre))
    weight = weight / spread[:, None]
    network.direct.weight.copy_(weight.T)
    network.direct.bias.copy_(centre - mean @ weight)
