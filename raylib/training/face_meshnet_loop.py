"""Training the network that corrects landmark fits, without Ray: batches, one step, validation, checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from raylib.face_network import in_precision, unfolded
from raylib.fit_correction import CropEstimate, FitCorrector
from raylib.mesh import vertex_normals
from raylib.networks.face_meshnet import FaceMeshNet
from raylib.training.face_augmentation import FaceAugmentation
from raylib.training.face_meshnet_loss import FaceLoss, aligned_error, rotation_distance_deg
from raylib.training.face_samples import FaceSampleBatch, FaceSamples, FaceTruth


@dataclass
class TrainState:
    """All that changes while training; what a checkpoint holds.

    Attributes:
        model: the network, or the network wrapped for data parallel training.
        average: moving average of the network's weights, the one that is validated and shipped.
        optimizer: AdamW over `model`.
        step: optimiser steps done.
        epoch: epochs done.
        history: one row of figures per reported epoch.
    """

    model: nn.Module
    average: FaceMeshNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def network(self) -> FaceMeshNet:
        """The network inside any data parallel wrapper."""
        inside: FaceMeshNet = getattr(self.model, "module", self.model)  # type: ignore[arg-type]
        return inside


def new_state(network: FaceMeshNet, weight_decay: float) -> TrainState:
    """Returns the state before the first step."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    return TrainState(network, copy.deepcopy(network).requires_grad_(False), optimizer)


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Returns the rate of a step: a linear rise, then half a cosine down to a hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    part = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def batches(
    synthetic: FaceSamples,
    chosen: Int[np.ndarray, " n"],
    photos: FaceSamples | None,
    photo_index: Int[np.ndarray, " m"],
    batch_size: int,
    photo_share: float,
    augment: FaceAugmentation,
    seed: tuple[int, int, int],
) -> Iterator[tuple[FaceSampleBatch, Bool[Tensor, " b"]]]:
    """Yields an epoch's augmented batches of synthetic faces and photographs; the next is made meanwhile.

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

    def prepare(step: int) -> tuple[FaceSampleBatch, Tensor]:
        batch = synthetic.batch(np.resize(order, steps * n_faces)[step * n_faces : (step + 1) * n_faces])
        batch, lit = augment(batch, generator)
        if n_photos and photos is not None:
            more, _ = augment(photos.batch(rng.choice(photo_index, n_photos)), generator)
            batch, lit = joined(batch, more), torch.cat([lit, torch.zeros(n_photos, dtype=torch.bool)])
        return batch, lit

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(prepare, 0)
        for step in range(1, steps + 1):
            batch = waiting.result()
            if step < steps:
                waiting = pool.submit(prepare, step)
            yield batch


def joined(a: FaceSampleBatch, b: FaceSampleBatch) -> FaceSampleBatch:
    """Returns both batches as one."""

    def both(x: Any, y: Any) -> Any:
        if isinstance(x, Tensor):
            return torch.cat([x, y])
        return type(x)(**{name: both(getattr(x, name), getattr(y, name)) for name in x.__dataclass_fields__})

    result: FaceSampleBatch = both(a, b)
    return result


def to_device(batch: FaceSampleBatch, device: torch.device) -> FaceSampleBatch:
    """Returns the samples on a device."""

    def moved(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(device)
        return type(x)(**{name: moved(getattr(x, name)) for name in x.__dataclass_fields__})

    result: FaceSampleBatch = moved(batch)
    return result


def train_step(
    state: TrainState,
    corrector: FitCorrector,
    loss: FaceLoss,
    batch: FaceSampleBatch,
    lit: Bool[Tensor, " b"],
    rate: float,
    ema_decay: float,
    precision: torch.dtype,
    first_stage: FaceMeshNet | None = None,
) -> dict[str, float]:
    """Does one optimiser step and returns the loss and its terms.

    Args:
        state: changed in place.
        corrector: face model and average albedo.
        loss: what is minimised.
        batch: samples.
        lit: rows whose colours are as their truth says.
        rate: learning rate of this step.
        ema_decay: share of the old average that stays; early steps use less of it, so that the start fades.
        precision: float32, or bfloat16 for mixed precision.
        first_stage: network that photographs' shapes are held to.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    seen = batch.images, batch.labels
    with torch.no_grad():
        fit = corrector.settle(*seen, batch.fit, batch.truth.known < 0.5)
        inputs, light = corrector.inputs(*seen, fit)
    corrections = in_precision(state.model, precision)(inputs)
    estimate = corrector.apply(corrections, inputs, fit, light)
    reference = None
    if first_stage is not None:
        with torch.no_grad():
            reference = corrector.apply(in_precision(first_stage, precision)(inputs), inputs, fit, light)
    total, terms = loss(estimate, corrections, batch, lit, reference)
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), 2.0)
    if bool(torch.isfinite(norm)):  # a face behind its camera must not end the run
        state.optimizer.step()
    state.step += 1
    decay = min(ema_decay, state.step / (state.step + 20))
    with torch.no_grad():
        for mean, now in zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True):
            mean.lerp_(now, 1 - decay)
    return {"loss": float(total.detach()), **terms}


@torch.inference_mode()
def estimate_samples(
    network: FaceMeshNet, corrector: FitCorrector, batch: FaceSampleBatch, precision: torch.dtype
) -> CropEstimate:
    """Returns the network's faces as inference would give them."""
    estimate = corrector.estimate(in_precision(network, precision), batch.images, batch.labels, batch.fit)
    return unfolded(estimate, corrector.model.faces)


def figures(
    verts_mm: Float[Tensor, "b v 3"],
    R: Float[Tensor, "b 3 3"],
    truth: FaceTruth,
    weights: Float[Tensor, " v"],
    faces: Int[Tensor, "f 3"],
) -> dict[str, float]:
    """Returns errors of faces against their truth: vertices and along normals in mm, normals and pose in degrees."""
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
    network: FaceMeshNet,
    corrector: FitCorrector,
    samples: FaceSamples,
    index: Int[np.ndarray, " n"],
    weights: Float[Tensor, " v"],
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> dict[str, float]:
    """Returns errors over samples with truth: of the network (`val_`), of what it starts from, of the mean face."""
    rows: list[dict[str, float]] = []
    sizes: list[int] = []
    model = corrector.model
    for start in range(0, len(index), batch_size):
        batch = to_device(samples.batch(index[start : start + batch_size]), device)
        estimate = estimate_samples(network, corrector, batch, precision)
        settled = corrector.settle(batch.images, batch.labels, batch.fit)
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


def save_checkpoint(state: TrainState, path: Path) -> None:
    """Writes everything that a resumed run needs; the file is complete or absent."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": state.network.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "epoch": state.epoch,
            "history": state.history,
        },
        partial,
    )
    partial.replace(path)


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Puts the state back to what `save_checkpoint` wrote."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state.network.load_state_dict(saved["model"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.epoch, state.history = saved["step"], saved["epoch"], saved["history"]
