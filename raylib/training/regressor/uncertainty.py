"""What a trained network does not know of itself: its errors on faces with truth, and how to tell them beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylib.geometry.similarity import similarity
from raylib.regressor.corrections import RegressorGeometry, trend_features
from raylib.regressor.network import FaceRegressor
from raylib.regressor.predictor import in_precision, unfolded
from raylib.regressor.uncertainty import LogErrorModel, with_squares
from raylib.runtime.progress import watched
from raylib.training.regressor.cascade import ridge_weights
from raylib.training.regressor.loss import vertex_weights
from raylib.training.regressor.samples import FaceSamples

_BATCH = 32
_FACES = 20_000  # of the training, for the trend
_PATTERNS = 30
_RIDGE = 0.3  # penalty, as a share of the number of faces, on features of variance one
_MIN_ERROR_MM = 0.05  # below, an error is chance, and its logarithm would steer the regression


@dataclass(frozen=True)
class JudgedErrors:
    """Errors of a network, and what was known of them beforehand.

    Attributes:
        error_mm: distance of each vertex from the truth after a similarity over the face.
        log_said: logarithm of the uncertainty over the average one.
        features: what fits and pictures looked like (`regressor.corrections.trend_features`).
    """

    error_mm: Float[Tensor, "n v"]
    log_predicted: Float[Tensor, "n v"]
    features: Float[Tensor, "n g"]


@torch.inference_mode()
def judged_errors(
    network: FaceRegressor,
    corrector: RegressorGeometry,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    weights: Float[Tensor, " v"],
    precision: torch.dtype,
) -> JudgedErrors:
    """Returns the errors over samples with truth.

    Args:
        network: trained network, on the CPU.
        corrector: that it was trained with.
        samples: samples with truth.
        index: which of them.
        weights: of the vertices; those above a half are laid onto the truth by a similarity.
        precision: of the network.
    """
    shown = (weights > 0.5).numpy()
    run = in_precision(network, precision)
    errors, said, features = [], [], []
    for start in watched(range(0, len(index), _BATCH), "batches judged"):
        batch = samples.batch(index[start : start + _BATCH])
        fit = corrector.run_cascade(batch.images, batch.labels, batch.fit)
        inputs, light = corrector.inputs(batch.images, batch.labels, fit)
        estimate = unfolded(corrector.apply(run(inputs), inputs, fit, light), corrector.model.faces)
        pairs = zip(estimate.verts_mm.double().numpy(), batch.truth.verts_mm.double().numpy(), strict=True)
        for verts, truth in pairs:
            scale, R, T = similarity(verts[shown], truth[shown])
            errors.append(torch.from_numpy(np.linalg.norm(scale * verts @ R.T + T - truth, axis=1)).float())
        said.append((estimate.sigma_mm / corrector.average_sigma).log())
        features.append(trend_features(inputs, fit))
    return JudgedErrors(torch.stack(errors), torch.cat(said), torch.cat(features))


def error_trend(judged: JudgedErrors) -> LogErrorModel:
    """Returns what fits tell of the errors, by ridge regression.

    Logarithms are regressed, in the patterns of vertices in which they vary most: a single vertex's error is mostly
    chance.
    """
    found = _log_errors(judged)
    u, s, patterns = torch.linalg.svd(found - found.mean(0), full_matrices=False)
    u, s, patterns = u[:, :_PATTERNS], s[:_PATTERNS], patterns[:_PATTERNS]
    features = judged.features.double()
    means, spreads = features.mean(0), features.std(0).clamp(min=1e-4)
    x = with_squares(features, means, spreads)
    weights = ridge_weights(x.T @ x / len(x), x.T @ (u * s) / len(x), _RIDGE)
    return LogErrorModel(means.float(), spreads.float(), weights.float(), patterns.float())


def network_weight(judged: JudgedErrors, trend: LogErrorModel) -> float:
    """Returns how far the network's own say tells what the trend leaves, 0 to 1, by least squares on the logarithms.

    A network that learns uncertainty from single faces' errors says little that their fits do not tell better; what
    it says besides is noise, and is to count for no more than it knows.
    """
    left = _log_errors(judged) - trend(judged.features)
    left, said = left - left.mean(0), judged.log_predicted - judged.log_predicted.mean(0)
    return float(((left * said).sum() / said.square().sum().clamp(min=1e-12)).clamp(0, 1))


def _log_errors(judged: JudgedErrors) -> Float[Tensor, "n v"]:
    return (judged.error_mm.double() + _MIN_ERROR_MM).log()


def calibrated_sigma(judged: JudgedErrors, mirror: Int[Tensor, " v"] | None) -> Float[Tensor, " v"]:
    """Returns the `average_sigma` with which each vertex's uncertainty is on average its error.

    Network and trend keep the say over what differs between faces. Both sides of the face count as one.

    Args:
        judged: errors on faces that nothing was trained on.
        mirror: the vertex on the other side.
    """
    ratio = judged.error_mm.mean(0) / judged.log_predicted.exp().mean(0)
    return ratio if mirror is None else (ratio + ratio[mirror]) / 2


def set_uncertainty(
    network: FaceRegressor,
    corrector: RegressorGeometry,
    training: FaceSamples,
    held_out: FaceSamples,
    precision: torch.dtype,
) -> None:
    """Gives a corrector the trend of the errors on faces of the training, and an average that holds on others.

    The network's own say is reduced to what it adds to the trend (`network_weight`).
    """
    weights = vertex_weights(corrector.model)
    corrector.trend = LogErrorModel.empty(len(weights))
    some = np.arange(min(len(training), _FACES))
    judged = judged_errors(network, corrector, training, some, weights, precision)
    corrector.trend = error_trend(judged)
    network.scale_uncertainty(network_weight(judged, corrector.trend))
    judged = judged_errors(network, corrector, held_out, np.arange(len(held_out)), weights, precision)
    corrector.average_sigma = calibrated_sigma(judged, corrector.model.mirror_verts)
