"""The training of the network that corrects landmark fits, as a task of `loop`: batches, losses, validation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from raylib.config import TrainRegressorConfig
from raylib.errors import ConfigError
from raylib.geometry.mesh import vertex_normals
from raylib.regressor.corrections import CropEstimate, RegressorGeometry
from raylib.regressor.network import FaceRegressor
from raylib.regressor.predictor import in_precision, unfolded
from raylib.training.loop import Course, Schedule, Task, Worker
from raylib.training.precision import resolve_precision
from raylib.training.regressor.augmentation import FaceAugmentation
from raylib.training.regressor.cascade import start
from raylib.training.regressor.loss import FaceLoss, aligned_error, rotation_distance_deg
from raylib.training.regressor.pictures import drawn_faces
from raylib.training.regressor.samples import FaceSampleBatch, FaceSamples, FaceTruth
from raylib.training.strips import row_of, strip_index

FaceBatch = tuple[FaceSampleBatch, Bool[Tensor, " b"]]
"""Samples, and which rows' colours are as their truth says, not changed by augmentation."""

_MAX_NORM = 2.0
_LAST_RATE = 0.01  # of the peak


@dataclass(frozen=True)
class CorrectionLosses:
    """What a network of corrections minimises on a batch.

    Attributes:
        corrector: face model and average albedo.
        loss: of corrected faces.
        precision: float32, or bfloat16 for mixed precision.
        first_stage: network that photographs' shapes are held to.
    """

    corrector: RegressorGeometry
    loss: FaceLoss
    precision: torch.dtype
    first_stage: FaceRegressor | None = None

    def __call__(self, model: nn.Module, batch: FaceBatch, done: float) -> dict[str, Float[Tensor, ""]]:
        """The loss and its terms; the share of the training that is `done` changes nothing."""
        samples, lit = batch
        seen = samples.images, samples.labels
        with torch.no_grad():
            fit = self.corrector.run_cascade(*seen, samples.fit, samples.truth.known < 0.5)
            inputs, light = self.corrector.inputs(*seen, fit)
        corrections = in_precision(model, self.precision)(inputs)
        estimate = self.corrector.apply(corrections, inputs, fit, light)
        reference = None
        if self.first_stage is not None:
            with torch.no_grad():
                first = in_precision(self.first_stage, self.precision)(inputs)
                reference = self.corrector.apply(first, inputs, fit, light)
        return self.loss(estimate, corrections, samples, lit, reference)


class RegressorTask(Task[FaceBatch]):
    """The network learns to correct the fits of prepared samples.

    Args:
        config: of the run; its cache holds the samples and the trained cascade.
        worker: whose task it is.

    Raises:
        ConfigError: the cache lacks samples, or there are fewer for validation than workers.
    """

    score = "val_vertex_mm"

    def __init__(self, config: TrainRegressorConfig, worker: Worker):
        self._config, self._worker, face = config, worker, config.face
        self._network, corrector = start(config)
        model, cache = corrector.model, Path(face.cache)
        self.samples = FaceSamples(cache / "train", model)
        self.held_out = FaceSamples(cache / "validation", model)
        if len(self.held_out) < worker.world:
            most = f"at most {len(self.held_out)}, the number of faces for validation"
            raise ConfigError(f"num_workers is {worker.world}, expected {most}")
        self._photos = FaceSamples(cache / "photographs", model) if face.photo_share else None
        self._augment = FaceAugmentation(model)
        self.precision = resolve_precision(config.precision, worker.device)
        self.corrector = corrector.to(worker.device)
        self._loss = FaceLoss(self.corrector, face.loss, config.image_px)
        first_stage = copy.deepcopy(self._network).to(worker.device).eval() if face.init_weights else None
        self._losses = CorrectionLosses(self.corrector, self._loss, self.precision, first_stage)
        steps = steps_per_epoch(config, len(self.samples), worker.world)
        peak = config.learning_rate
        self.course = Course(
            epochs=config.epochs,
            steps=steps,
            schedule=Schedule(steps * config.epochs, face.warmup_steps, peak, _LAST_RATE),
            images_per_step=config.images_per_worker * worker.world,
            checkpoint_epochs=config.checkpoint_epochs,
            strip_epochs=config.strip_epochs,
            ema_decay=face.ema_decay,
            max_norm=_MAX_NORM,
        )

    def new_network(self) -> FaceRegressor:
        """The network that the run starts from."""
        return copy.deepcopy(self._network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW, without decay of biases and scales."""
        return adamw(network, self._config.face.weight_decay)

    def steps(self, epoch: int) -> Iterator[Sequence[FaceBatch]]:
        """The epoch's augmented batches on the worker's device."""
        config, worker, photos = self._config, self._worker, self._photos
        # As many samples on every worker, so that all take the same number of steps.
        chosen = np.random.default_rng((config.seed, epoch)).permutation(len(self.samples))
        chosen = np.resize(chosen, self.course.steps * _synthetic_per_step(config) * worker.world)
        some = np.arange(worker.rank, 0 if photos is None else len(photos), worker.world)
        for batch, lit in batches(
            self.samples, chosen[worker.rank :: worker.world], photos, some, config.images_per_worker,
            config.face.photo_share, self._augment, (config.seed, epoch, worker.rank),
        ):  # fmt: skip
            yield ((to_device(batch, worker.device), lit.to(worker.device)),)

    def losses(self, model: nn.Module, batch: FaceBatch, done: float) -> dict[str, Float[Tensor, ""]]:
        """The loss of corrected faces and its terms."""
        return self._losses(model, batch, done)

    def validate(self, network: FaceRegressor) -> tuple[dict[str, float], int]:
        """Errors of the network, of what it starts from and of the mean face."""
        index = np.arange(self._worker.rank, len(self.held_out), self._worker.world)
        weights, size = self._loss.vertex_weights, self._config.images_per_worker
        row = validate(
            network, self.corrector, self.held_out, index, weights, size, self._worker.device, self.precision
        )
        return row, len(index)

    @cached_property
    def _shown(self) -> FaceSampleBatch:
        return to_device(self.held_out.batch(strip_index(len(self.held_out))), self._worker.device)

    def strip(self, network: FaceRegressor) -> UInt8[np.ndarray, "h w 3"]:
        """Some faces of the validation as estimated, above their bare shapes."""
        return drawn_faces(self._loss, estimate_samples(network, self.corrector, self._shown, self.precision))

    def originals(self) -> UInt8[np.ndarray, "h w 3"]:
        """Their crops."""
        return row_of(self._shown.images.cpu().numpy())

    def estimated(self, network: FaceRegressor, count: int) -> CropEstimate:
        """At most so many faces of the strip, each once, as inference would give them."""
        some = self.held_out.batch(np.unique(strip_index(len(self.held_out)))[:count])
        return estimate_samples(network, self.corrector, some, self.precision)

    def is_shown(self, figure: str) -> bool:
        """Loss, speed and distances: the others are many."""
        return figure in ("loss", "images_per_second") or "_mm" in figure


def _synthetic_per_step(config: TrainRegressorConfig) -> int:
    return config.images_per_worker - round(config.images_per_worker * config.face.photo_share)


def steps_per_epoch(config: TrainRegressorConfig, num_samples: int, num_workers: int) -> int:
    """The optimiser steps of an epoch over so many synthetic faces."""
    return config.steps_per_epoch or max(1, num_samples // (_synthetic_per_step(config) * num_workers))


def adamw(network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays all weights but biases and scales; the loop sets the learning rate."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def batches(
    synthetic: FaceSamples,
    chosen: Int[np.ndarray, " n"],
    photos: FaceSamples | None,
    photo_index: Int[np.ndarray, " m"],
    batch_size: int,
    photo_share: float,
    augment: FaceAugmentation,
    seed: tuple[int, int, int],
) -> Iterator[FaceBatch]:
    """Yields an epoch's augmented batches of synthetic faces and photographs, with the rows whose colours are true.

    Args:
        synthetic: samples with truth.
        chosen: which of them, this worker's share.
        photos: samples without truth, or None.
        photo_index: which of them.
        batch_size: faces a batch.
        photo_share: share of photographs in it.
        augment: changes samples at random.
        seed: run, epoch and worker; the same seed gives the same batches.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    n_photos = round(batch_size * photo_share) if photos is not None and len(photo_index) else 0
    n_faces = batch_size - n_photos
    order = rng.permutation(chosen)
    steps = max(1, len(order) // n_faces)

    for row in np.resize(order, (steps, n_faces)):
        batch, lit = augment(synthetic.batch(row), generator)
        if n_photos and photos is not None:
            more, _ = augment(photos.batch(rng.choice(photo_index, n_photos)), generator)
            batch, lit = joined(batch, more), torch.cat([lit, torch.zeros(n_photos, dtype=torch.bool)])
        yield batch, lit


def joined(a: FaceSampleBatch, b: FaceSampleBatch) -> FaceSampleBatch:
    """Both batches as one."""

    def both(x: Any, y: Any) -> Any:
        if isinstance(x, Tensor):
            return torch.cat([x, y])
        return type(x)(**{name: both(getattr(x, name), getattr(y, name)) for name in x.__dataclass_fields__})

    result: FaceSampleBatch = both(a, b)
    return result


def to_device(batch: FaceSampleBatch, device: torch.device) -> FaceSampleBatch:
    """The samples on a device."""

    def moved(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(device)
        return type(x)(**{name: moved(getattr(x, name)) for name in x.__dataclass_fields__})

    result: FaceSampleBatch = moved(batch)
    return result


@torch.inference_mode()
def estimate_samples(
    network: FaceRegressor, corrector: RegressorGeometry, batch: FaceSampleBatch, precision: torch.dtype
) -> CropEstimate:
    """The network's faces as inference would give them."""
    estimate = corrector.estimate(in_precision(network, precision), batch.images, batch.labels, batch.fit)
    return unfolded(estimate, corrector.model.faces)


def figures(
    verts_mm: Float[Tensor, "b v 3"],
    R: Float[Tensor, "b 3 3"],
    truth: FaceTruth,
    weights: Float[Tensor, " v"],
    faces: Int[Tensor, "f 3"],
) -> dict[str, float]:
    """Errors of faces against their truth: vertices and along normals in mm, normals and pose in degrees."""
    error, scale = aligned_error(verts_mm, truth.verts_mm, weights)
    normals, true_normals = vertex_normals(verts_mm, faces), vertex_normals(truth.verts_mm, faces)
    cosine = (normals * true_normals).sum(2).clamp(-1, 1)
    along = (error * true_normals).sum(2).abs()
    return {
        "vertex_mm": float((error.norm(dim=2) * weights).mean()),
        "plane_mm": float((along * weights).mean()),
        "plane_median_mm": float(along[:, weights > 0.5].median(dim=1).values.mean()),
        "normal_deg": float((torch.rad2deg(cosine.acos()) * weights).mean()),
        "pose_deg": float(rotation_distance_deg(R, truth.camera.R).mean()),
        "size": float(scale.log().abs().mean()),
    }


def validate(
    network: FaceRegressor,
    corrector: RegressorGeometry,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    weights: Float[Tensor, " v"],
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, float]:
    """Errors over samples with truth: of the network (`val_`), of what it starts from, of the mean face."""
    rows: list[dict[str, float]] = []
    sizes: list[int] = []
    model = corrector.model
    for first in range(0, len(index), batch_size):
        batch = to_device(samples.batch(index[first : first + batch_size]), device)
        estimate = estimate_samples(network, corrector, batch, precision)
        settled = corrector.run_cascade(batch.images, batch.labels, batch.fit)
        fitted = model.verts(batch.fit.identity, batch.fit.expression)
        row: dict[str, float] = {}
        compared = {
            "val": (estimate.verts_mm, estimate.camera.R),
            "cascade": (model.verts(settled.identity, settled.expression), settled.camera.R),
            "fit": (fitted, batch.fit.camera.R),
            "mean": (model.mean.expand_as(fitted), batch.fit.camera.R),
        }
        for name, (verts, R) in compared.items():
            for key, value in figures(verts, R, batch.truth, weights, model.faces).items():
                row[f"{name}_{key}"] = value
        ratio = (estimate.albedo / batch.truth.albedo.clamp(min=0.02)).log()
        row["val_albedo"] = float((ratio - ratio.mean((1, 2), keepdim=True)).abs().mean())
        rows.append(row)
        sizes.append(len(batch.images))
    total = sum(sizes)
    return {key: sum(row[key] * n for row, n in zip(rows, sizes, strict=True)) / total for key in rows[0]}
