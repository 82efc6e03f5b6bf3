"""Training of the cascade of linear regressions: ridge regression, and what a run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raylib.config import TrainRegressorConfig
from raylib.fitting.crop_space import CropFit
from raylib.geometry.camera import Camera
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.regressor.cascade import CascadedRegression, cascade_features, descriptor_maps, posed
from raylib.regressor.corrections import RegressorGeometry
from raylib.regressor.network import FaceRegressor
from raylib.regressor.novelty import OutOfDistributionScore
from raylib.regressor.weights import build_network, load_weights, save_weights
from raylib.runtime.progress import watched
from raylib.runtime.provenance import sha256
from raylib.training.regressor.augmentation import FaceAugmentation, coefficient_solver, reframed
from raylib.training.regressor.loss import vertex_weights
from raylib.training.regressor.samples import FaceSampleBatch, FaceSamples, FaceTruth

_BATCH = 64
_CASCADE_SAMPLES = 20_000
_TYPICAL_SAMPLES = 4_000  # of them, to tell what is usual
_NOISE_DIRECTIONS = 400
_MAIN_DIRECTIONS = 200
_FACES_A_DIRECTION = 10  # fewer, and the training's own faces seem nearer than others of their kind


def rotation_vector(R: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """Returns axis times angle of rotations below half a turn; the inverse of `camera.rotation_from_vector`."""
    skew = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], dim=1) / 2
    sine = skew.norm(dim=1)
    cosine = (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    return skew * (torch.atan2(sine, cosine) / sine.clamp(min=1e-8))[:, None]


class StepTargets:
    """Steps that would bring a fit to the truth.

    Steps of the coefficients, not the coefficients: what a regression holds back then leads to the landmark fit,
    which stays near the photograph's landmarks, instead of to the average face.

    Args:
        model: the face model.
        ridge: how strongly coefficients are held to zero where vertices say nothing, square millimetres.
    """

    def __init__(self, model: LinearFaceModel, ridge: float = 0.02):
        self._weight = vertex_weights(model).sqrt()
        self._solve = coefficient_solver(model, self._weight, ridge)
        self._model = model

    def __call__(self, fit: CropFit, truth: FaceTruth) -> Float[Tensor, "b c"]:
        """Returns turn, shift, log depth, and steps of identity and expression."""
        moved = ((truth.verts_mm - self._model.mean) * self._weight[:, None]).flatten(1)
        coefficients = moved @ self._solve.T
        low, high = self._model.expression_bounds.unbind(1)
        k = len(self._model.identity)
        moves = [coefficients[:, :k] - fit.identity, coefficients[:, k:].clamp(low, high) - fit.expression]
        turn = rotation_vector(truth.camera.R @ fit.camera.R.transpose(1, 2))
        shift = _origin(truth.camera) - _origin(fit.camera)
        depth = fit.camera.focal_px / truth.camera.focal_px * truth.camera.T[:, 2] / fit.camera.T[:, 2]
        return torch.cat([turn, shift, depth.log()[:, None], *moves], dim=1)


def _origin(camera: Camera) -> Float[Tensor, "b 2"]:
    return camera.T[:, :2] / camera.T[:, 2:] * camera.focal_px[:, None] + camera.principal_px


def excess_noise(real: Float[Tensor, "m f"], gram: Float[Tensor, "f f"]) -> Float[Tensor, "f r"]:
    """Returns a factor L, so that L L^T is what features of photographs scatter more than those of synthetic faces.

    It is the positive part of the difference of both second moments about the synthetic mean, so that a shift of the
    mean counts too, in the photographs' main directions.

    Args:
        real: features of photographs, standardised as those of the synthetic faces.
        gram: second moments of the synthetic faces' features.
    """
    rank = min(_NOISE_DIRECTIONS, *real.shape)
    basis = torch.linalg.svd(real, full_matrices=False).Vh[:rank].T
    seen = real @ basis
    more = seen.T @ seen / len(real) - basis.T @ (gram @ basis)
    values, vectors = torch.linalg.eigh((more + more.T) / 2)
    return basis @ (vectors * values.clamp(min=0).sqrt())


def ridge_weights(gram: Float[Tensor, "f f"], cross: Float[Tensor, "f c"], ridge: float) -> Float[Tensor, "f c"]:
    """Returns the weights of a ridge regression.

    Args:
        gram: second moments of the features.
        cross: those of features and what they shall tell.
        ridge: penalty on features of variance one.
    """
    penalised = gram.clone()
    penalised.diagonal().add_(ridge)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(penalised))


def _regression(
    x: Float[Tensor, "n f"],
    y: Float[Tensor, "n c"],
    ridge: float,
    real: Float[Tensor, "m f"] | None,
    noise: float,
    known: tuple[Tensor, Tensor, Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns weights, bias, mean and spread of the regression of y on standardised x; x and real change in place.

    Photographs' features (`real`) are taken for a synthetic face's and an independent noise, which the weights are
    not to answer to: errors in variables. Where a regression is known, its weights are what the penalty holds to.
    """
    if known is None:
        known = x.new_zeros(x.shape[1], y.shape[1]), y.new_zeros(y.shape[1]), x.mean(0), x.std(0).clamp(min=1e-4)
    weights, bias, mean, spread = known
    for features in (x, real):
        if features is not None:
            features.sub_(mean).div_(spread).clamp_(-6, 6)
    y = y - (x @ weights + bias)
    # Extreme fits must not steer the plane: their targets are cut at four deviations.
    centre, reach = y.mean(0), 4 * y.std(0)
    gram = x.T @ x / len(x)
    cross = x.T @ (y - centre).clamp(-reach, reach) / len(x)
    if real is not None:
        factor = excess_noise(real, gram)
        gram.addmm_(factor, factor.T, alpha=noise)
        cross.addmm_(factor, factor.T @ weights, alpha=-noise)
    return weights + ridge_weights(gram, cross, ridge), bias + centre, mean, spread


class _Side:
    """Samples on their way through the steps.

    Args:
        batches: as they are, and changed.
        model: the face model.
    """

    def __init__(self, batches: list[FaceSampleBatch], model: LinearFaceModel):
        self._maps = [tuple(m.half() for m in descriptor_maps(b.images, b.labels)) for b in batches]
        self.truths, self.fits, self._model = [b.truth for b in batches], [b.fit for b in batches], model

    def features(self, what: str) -> Float[Tensor, "n f"]:
        """Returns what the next step looks at."""
        together = watched(list(zip(self._maps, self.fits, strict=True)), what)
        return torch.cat(
            [cascade_features((fine.float(), coarse.float()), fit, self._model) for (fine, coarse), fit in together]
        )

    def move(self, steps: Float[Tensor, "n c"]) -> None:
        """Takes a step."""
        parts = steps.split([len(fit.identity) for fit in self.fits])
        self.fits = [posed(fit, step, self._model) for fit, step in zip(self.fits, parts, strict=True)]


def _doubled(
    samples: FaceSamples, index: Int[np.ndarray, " n"], change: FaceAugmentation, rng: Generator, truth: bool
) -> list[FaceSampleBatch]:
    """Returns samples as they are, and mirrored, reframed and, where there is truth, with landmarks nearer to it."""
    out: list[FaceSampleBatch] = []
    for start in range(0, len(index), _BATCH):
        batch = samples.batch(index[start : start + _BATCH])
        changed = reframed(change.mirrored(batch), rng)
        out += [batch, change.relandmarked(changed, rng) if truth else changed]
    return out


@torch.no_grad()
def train_cascade(
    model: LinearFaceModel,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    ridges: Sequence[float],
    seed: int = 0,
    photographs: FaceSamples | None = None,
    noise: float = 1.0,
    known: CascadedRegression | None = None,
) -> CascadedRegression:
    """Returns the cascade that ridge regression finds over samples with truth.

    Every sample counts twice: as it is, and mirrored, reframed and with landmarks nearer to the truth, since on
    photographs, for which it was made, the detector errs less than on synthetic faces. Photographs, which have no
    truth, tell which features are not to be trusted (`excess_noise`).

    Args:
        model: the face model.
        samples: samples.
        index: which of them.
        ridges: of each step the penalty, as a share of the number of samples, on features of variance one.
        seed: of the changes.
        photographs: samples without truth.
        noise: how much their excess counts; 1 is what errors in variables say.
        known: as many steps that other samples taught: what the penalty holds the weights to, instead of to zero.
    """
    change, targets = FaceAugmentation(model), StepTargets(model)
    rng = Generator().manual_seed(seed)
    told = _Side(_doubled(samples, index, change, rng, truth=True), model)
    unknown = None
    if photographs is not None and noise:
        unknown = _Side(_doubled(photographs, np.arange(len(photographs)), change, rng, truth=False), model)
    found = []
    for number, ridge in enumerate(ridges, 1):
        what = f"batches of the cascade's step {number} of {len(ridges)}"
        x = told.features(what)
        real = None if unknown is None else unknown.features(f"{what}, photographs")
        wanted = torch.cat([targets(fit, truth) for fit, truth in zip(told.fits, told.truths, strict=True)])
        before = None if known is None else known.step(number - 1)
        weight, bias, mean, spread = _regression(x, wanted, ridge, real, noise, before)
        found.append((weight, bias, mean, spread))
        told.move(x @ weight + bias)
        if unknown is not None and real is not None:
            unknown.move(real @ weight + bias)
    weights, biases, means, spreads = (torch.stack(list(parts)) for parts in zip(*found, strict=True))
    return CascadedRegression(weights, biases, means, spreads)


def strangeness_of(
    known: Float[Tensor, "n f"],
    real: Float[Tensor, "m f"],
    known_identity: Float[Tensor, "n k"],
    real_identity: Float[Tensor, "m k"],
    noise: float,
) -> OutOfDistributionScore:
    """Returns how strange pictures are, from features and identities of synthetic faces and of photographs.

    Where identities found in photographs scatter about the mean face more than those found in synthetic faces, the
    excess is taken for independent noise, as with the features.

    Args:
        known: standardised features of synthetic faces.
        real: those of photographs.
        known_identity: identities found in the synthetic faces.
        real_identity: those found in the photographs.
        noise: how much the excess counts.
    """
    rank = min(_MAIN_DIRECTIONS, len(known) // _FACES_A_DIRECTION)
    basis = torch.linalg.svd(known, full_matrices=False).Vh[:rank].T
    zero = known.new_zeros(())
    usual = OutOfDistributionScore(basis, zero, zero + 1, zero)(known)[0].mean()
    unit = OutOfDistributionScore(basis, usual, zero + 1, zero)(real)[0].mean().clamp(min=1e-6)
    excess = real_identity.square().sum(1).mean() / known_identity.square().sum(1).mean() - 1
    return OutOfDistributionScore(basis, usual, unit, noise * excess.clamp(min=0))


@torch.inference_mode()
def strangeness(
    model: LinearFaceModel,
    cascade: CascadedRegression,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    photographs: FaceSamples,
    noise: float,
) -> OutOfDistributionScore:
    """Returns how strange pictures are to a cascade (see `strangeness_of`).

    Args:
        model: the face model.
        cascade: trained cascade.
        samples: synthetic faces.
        index: which of them.
        photographs: samples without truth.
        noise: how much the photographs' excess counts.
    """

    def found(some: FaceSamples, which: Int[np.ndarray, " n"]) -> tuple[Tensor, Tensor]:
        features, identities = [], []
        for start in watched(range(0, len(which), _BATCH), "batches of identities"):
            batch = some.batch(which[start : start + _BATCH])
            fit, seen = cascade(descriptor_maps(batch.images, batch.labels), batch.fit, model)
            features.append(seen)
            identities.append(fit.identity)
        return torch.cat(features), torch.cat(identities)

    known, known_identity = found(samples, index)
    real, real_identity = found(photographs, np.arange(len(photographs)))
    return strangeness_of(known, real, known_identity, real_identity, noise)


def start(config: TrainRegressorConfig) -> tuple[FaceRegressor, RegressorGeometry]:
    """The network before the first step, and the corrector that goes with it.

    Where the cascade is trained, it is trained once: all workers read it from the cache.
    """
    model, face = load_prior(), config.face
    noise = face.cascade_noise if face.photographs else 0.0
    name, known = f"cascade_{noise:g}", None
    if face.init_weights:
        network, known = load_weights(Path(face.init_weights), model)
        name += f"_on_{sha256(Path(face.init_weights))[:12]}"
        if not face.teach_cascade:
            return network.train(), known
    else:
        torch.manual_seed(config.seed)
        network = build_network(model, face.architecture)
    path = Path(face.cache) / f"{name}.safetensors"
    if not path.is_file():
        corrector = _with_trained_cascade(config, model, known, noise)
        unfinished = path.with_suffix(".partial")
        save_weights(network, face.architecture, corrector, unfinished)
        unfinished.replace(path)
    return network.train(), load_weights(path, model)[1]


def _with_trained_cascade(
    config: TrainRegressorConfig, model: LinearFaceModel, known: RegressorGeometry | None, noise: float
) -> RegressorGeometry:
    """A new corrector, or the known one, whose cascade the samples taught."""
    face = config.face
    samples = FaceSamples(Path(face.cache) / "train", model)
    index = np.arange(min(len(samples), _CASCADE_SAMPLES))
    photos = FaceSamples(Path(face.cache) / "photographs", model) if noise else None
    if known is None:
        corrector = RegressorGeometry(model, samples.mean_albedo(), CascadedRegression.identity(model))
        former, count, closing = None, face.cascade_steps, int(photos is not None)
    else:
        corrector, former = known, known.cascade.then(known.gated_step)
        count, closing = len(known.cascade.weights), len(known.gated_step.weights)
    ridges = [face.cascade_ridge] * count + [face.closing_ridge] * closing
    steps = train_cascade(model, samples, index, ridges, config.seed, photos, noise, former)
    corrector.cascade, corrector.gated_step = steps[:count], steps[count:]
    if photos is not None:
        some = index[:_TYPICAL_SAMPLES]
        corrector.strangeness = strangeness(model, corrector.cascade, samples, some, photos, noise)
    return corrector
