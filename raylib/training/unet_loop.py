"""Training the U-Net, without Ray: state, one step, one epoch, checkpoints. `unet_ray` spreads it over workers."""

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
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from raylib.datasets.labelled import IGNORE
from raylib.networks.unet import UNet
from raylib.segmentation_metrics import confusion_matrix
from raylib.training.augmentation import Augmentation, augment
from raylib.training.segmentation_loss import segmentation_loss


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves: a linear rise, then half a cosine down to nothing.

    Attributes:
        steps: of the whole run.
        warmup: steps of the rise.
        peak: largest learning rate.
    """

    steps: int
    warmup: int
    peak: float

    def at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


@dataclass
class TrainState:
    """All that changes while training; what a checkpoint holds.

    Attributes:
        model: the network, or the network wrapped for data parallel training.
        average: moving average of the network's weights, the one that is evaluated and shipped.
        optimizer: AdamW over `model`.
        step: optimiser steps done.
        epoch: epochs done.
        history: one row of figures per reported epoch.
    """

    model: nn.Module
    average: UNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def network(self) -> UNet:
        """The network inside any data parallel wrapper."""
        inside: UNet = getattr(self.model, "module", self.model)  # type: ignore[arg-type]
        return inside


def new_state(network: UNet, weight_decay: float) -> TrainState:
    """Returns the state before the first step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=weight_decay)
    return TrainState(network, copy.deepcopy(network).requires_grad_(False), optimizer)


def train_step(
    state: TrainState,
    images: Float[Tensor, "b 3 h w"],
    labels: UInt8[Tensor, "b h w"],
    learning_rate: float,
    ema_decay: float,
    precision: torch.dtype,
) -> float:
    """Does one optimiser step and returns the loss.

    Args:
        state: changed in place.
        images: values in 0..1.
        labels: declared labels or IGNORE.
        learning_rate: of this step.
        ema_decay: share of the old average that stays; early steps use less of it, so that the random start fades.
        precision: float32, or bfloat16 for mixed precision (it needs no loss scaling).
    """
    device = images.device.type
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = state.model(images)
    loss = segmentation_loss(logits, labels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    state.step += 1
    decay = min(ema_decay, state.step / (state.step + 20))
    with torch.no_grad():
        for mean, now in zip(state.average.state_dict().values(), state.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)
    return float(loss.detach())


@dataclass(frozen=True)
class BatchPlan:
    """Which of a worker's photographs an epoch shows, and in which order.

    Attributes:
        repeats: (n) how often each of the worker's photographs appears in an epoch.
        batch_size: photographs per step.
        steps: of an epoch; the same on every worker, whatever its share. Photographs start over where a share is
            too short and wait for another epoch where it is too long.
        seed: of the run.
        rank: of the worker.
    """

    repeats: UInt8[np.ndarray, " n"]
    batch_size: int
    steps: int
    seed: int
    rank: int = 0

    def batches(self, epoch: int) -> Int64[np.ndarray, "s b"]:
        """Returns the photographs' numbers for each step of an epoch; the same for the same seed, rank and epoch."""
        pool = np.repeat(np.arange(len(self.repeats)), self.repeats)
        order = np.random.default_rng((self.seed, epoch, self.rank)).permutation(pool)
        return np.resize(order, (self.steps, self.batch_size))


def augmented_batches(
    images: UInt8[np.ndarray, "n s s 3"],
    labels: UInt8[np.ndarray, "n s s"],
    plan: BatchPlan,
    epoch: int,
    size: int,
    how: Augmentation,
    device: torch.device,
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], UInt8[Tensor, "b h w"]]]:
    """Yields an epoch's training batches; the next one is prepared while the caller works on the last."""
    seed = np.random.SeedSequence((plan.seed, epoch, plan.rank)).generate_state(1, np.uint64)[0]
    rng = torch.Generator(device).manual_seed(int(seed))

    def prepare(chosen: Int64[np.ndarray, " b"]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(images[chosen]).to(device, non_blocking=True)
        y = torch.from_numpy(labels[chosen]).to(device, non_blocking=True)
        x, y = augment(x, y, size, how, rng)
        return x.contiguous(memory_format=torch.channels_last), y

    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for chosen in plan.batches(epoch):
            following = pool.submit(prepare, chosen)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


@torch.inference_mode()
def validate(
    network: UNet,
    images: UInt8[np.ndarray, "n s s 3"],
    labels: UInt8[np.ndarray, "n s s"],
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> Int64[np.ndarray, "k k"]:
    """Returns the confusion matrix over stored photographs, as many pixels as they have."""
    total = np.zeros((network.num_classes, network.num_classes), np.int64)
    for start in range(0, len(images), batch_size):
        guess = predict(network, images[start : start + batch_size], device, precision)
        total += confusion_matrix(labels[start : start + batch_size], guess, network.num_classes, IGNORE)
    return total


@torch.inference_mode()
def predict(
    network: UNet, images: UInt8[np.ndarray, "n s s 3"], device: torch.device, precision: torch.dtype
) -> UInt8[np.ndarray, "n s s"]:
    """Returns the label maps that the network gives photographs."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        guess = network(x.contiguous(memory_format=torch.channels_last)).argmax(1)
    return np.asarray(guess.to(torch.uint8).cpu().numpy())


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
