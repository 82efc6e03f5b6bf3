"""Training a network that makes meshes, without Ray: the task, the state, one step, checkpoints.

`meshnet_ray` spreads it over workers. What is learned, a `Task` says; the step is the same for all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn


class Task(Protocol):
    """What a network is trained for, with one worker's share of the data.

    Attributes:
        num_train: training examples of this worker's share.
    """

    num_train: int

    def new_network(self) -> nn.Module:
        """Returns a network with fresh weights from torch's generator."""

    def losses(self, model: nn.Module, chosen: Int64[np.ndarray, " b"], done: float) -> dict[str, Float[Tensor, ""]]:
        """Returns what to minimise under "loss" and its terms by name, each a mean over the chosen examples.

        Args:
            model: the network or its data parallel wrapper.
            chosen: numbers of training examples.
            done: share of the training that is done, 0 to 1.
        """

    def validate(self, network: nn.Module) -> tuple[dict[str, float], int]:
        """Returns means of figures over this worker's validation examples, with `val_loss`, and their number."""

    def strip(self, network: nn.Module) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a row of pictures of always the same examples as the network makes them."""


@dataclass
class MeshTrainState:
    """All that changes while training; what a checkpoint holds.

    Attributes:
        model: the network, or the network wrapped for data parallel training.
        optimizer: Adam over `model`.
        step: optimiser steps done.
        epoch: epochs done.
        history: one row of figures per reported epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def network(self) -> nn.Module:
        """The network inside any data parallel wrapper."""
        inside: nn.Module = getattr(self.model, "module", self.model)
        return inside


def new_state(network: nn.Module, fused: bool = True) -> MeshTrainState:
    """Returns the state before the first step.

    Args:
        network: on its device.
        fused: update each weight in one pass over memory; five times as fast on the CPU.
    """
    return MeshTrainState(network, torch.optim.Adam(network.parameters(), lr=0.0, fused=fused))


def rate_at(done: float, learning_rate: float, decay_last: float) -> float:
    """Returns the learning rate after a share of the training: half a cosine down to `decay_last` of the first."""
    return learning_rate * (decay_last + (1 - decay_last) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def train_step(
    state: MeshTrainState,
    task: Task,
    batches: Sequence[Int64[np.ndarray, " b"]],
    learning_rate: float,
    done: float,
) -> dict[str, float]:
    """Does one optimiser step from the mean gradient of several passes and returns the mean terms of the loss.

    Args:
        state: changed in place.
        task: what to minimise.
        batches: examples of each pass, equally many.
        learning_rate: of this step.
        done: share of the training that is done, 0 to 1.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.zero_grad(set_to_none=True)
    total: dict[str, float] = {}
    for number, chosen in enumerate(batches):
        last = number == len(batches) - 1
        quiet = getattr(state.model, "no_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else quiet():  # workers exchange gradients once a step
            terms = task.losses(state.model, chosen, done)
            (terms["loss"] / len(batches)).backward()
        for name, term in terms.items():
            total[name] = total.get(name, 0.0) + float(term.detach()) / len(batches)
    state.optimizer.step()
    state.step += 1
    return total


def save_checkpoint(state: MeshTrainState, path: Path) -> None:
    """Writes everything that a resumed run needs."""
    torch.save(
        {
            "model": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "epoch": state.epoch,
            "history": state.history,
        },
        path,
    )


def load_checkpoint(state: MeshTrainState, path: Path) -> None:
    """Puts the state back to what `save_checkpoint` wrote."""
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    state.network.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.epoch, state.history = saved["step"], saved["epoch"], saved["history"]
