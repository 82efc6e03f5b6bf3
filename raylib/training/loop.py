"""The loop of every training, without Ray: state, learning rate, averaged weights, checkpoints, epochs.

A `Task` says what is learned. `train` runs it in the process that calls it; `ray_run` calls it in every worker.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raylib.errors import ConfigError
from raylib.runtime.progress import QUIET_S
from raylib.training.strips import has_strip, write_originals, write_strip

Batch = TypeVar("Batch")
Item = TypeVar("Item")
Losses = Callable[[nn.Module, Batch, float], dict[str, Tensor]]
"""Model, batch and the share of the training that is done give "loss", which is minimised, and its terms by name."""
Keep = Callable[[dict[str, float], Callable[[Path], None]], str | None]
"""Takes an epoch's figures and what writes a checkpoint to a file; returns why it could not be kept, else None."""

_EMA_WARMUP = 20  # the average of step n keeps n / (n + 20) of itself at most, so that the random start fades
_NO_FIGURES = ("epoch", "rate")
_PAUSE_S = 30.0  # between two lines of progress


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together.

    Attributes:
        rank: its number.
        world: how many there are.
        device: where its network is.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step: a linear rise, then half a cosine down.

    Attributes:
        steps: of the whole run.
        warmup: steps of the rise.
        peak: largest learning rate.
        last: share of the peak that the rate falls to.
    """

    steps: int
    warmup: int
    peak: float
    last: float = 0.0

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


@dataclass(frozen=True)
class Course:
    """How long a training is and how its steps are taken.

    Attributes:
        epochs: of the whole training.
        steps: of an epoch, the same on every worker.
        schedule: learning rate of each step.
        images_per_step: examples of a step on all workers together.
        checkpoint_epochs: epochs between checkpoints and validations.
        strip_epochs: epochs between the pictures of the strip.
        ema_decay: share of itself that the moving average of the weights keeps at a step; None keeps no average.
        max_norm: a longer gradient is shortened to this length.
    """

    epochs: int
    steps: int
    schedule: Schedule
    images_per_step: int
    checkpoint_epochs: int = 1
    strip_epochs: int = 1
    ema_decay: float | None = None
    max_norm: float = math.inf


class Task(Protocol[Batch]):
    """What a network is trained for, with one worker's share of the data.

    Attributes:
        course: length and steps of the training.
        score: figure of the validation by which checkpoints are kept.
        higher_is_better: whether much or little of the score is good.
        strip_at_start: whether the strip begins with the network before the first step.
    """

    course: Course
    score: str
    higher_is_better: bool = False
    strip_at_start: bool = False

    def new_network(self) -> nn.Module:
        """A network with fresh weights from torch's generator, or with those that the training starts from."""

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over the weights of a network on its device; the loop sets the learning rate."""

    def steps(self, epoch: int) -> Iterable[Sequence[Batch]]:
        """The epoch's steps in turn: each is equally many batches, whose mean gradient it follows.

        They are made in another thread, one ahead of the training.
        """

    def losses(self, model: nn.Module, batch: Batch, done: float) -> dict[str, Tensor]:
        """What to minimise under "loss" and its terms by name, each a mean over the batch.

        Args:
            model: the network or its data parallel wrapper.
            batch: of a step.
            done: share of the training that is done, 0 to 1.
        """

    def validate(self, network: Any) -> tuple[dict[str, float], int]:
        """Means of figures over this worker's validation examples, and the number of these."""

    def strip(self, network: Any) -> UInt8[np.ndarray, "h w 3"]:
        """A row of pictures of always the same examples as the network makes them."""

    def originals(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The same examples in truth, if that is a picture."""
        return None

    def training_picture(self, network: Any, batch: Batch) -> UInt8[np.ndarray, "h w 3"] | None:
        """Some examples of a training batch with what the network makes of them, for TensorBoard; None for none."""
        return None

    def facts(self, epoch: int) -> dict[str, float]:
        """Columns that the row of an epoch has besides its figures."""
        return {}

    def is_shown(self, figure: str) -> bool:
        """Whether lines of progress show a figure."""
        return figure not in _NO_FIGURES


@dataclass
class TrainState:
    """All that changes while training; what a checkpoint holds.

    Attributes:
        model: the network, or the network wrapped for data parallel training.
        optimizer: over `model`.
        averaged: moving average of the network's weights, if the training keeps one.
        step: optimiser steps done.
        epoch: epochs done.
        history: one row of figures per reported epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None = None
    step: int = 0
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def network(self) -> Any:
        """The network inside any data parallel wrapper."""
        return getattr(self.model, "module", self.model)

    @property
    def average(self) -> Any:
        """The network that is validated and kept: the averaged one, or `network` where no average is kept."""
        return self.network if self.averaged is None else self.averaged.module


def new_state(network: nn.Module, optimizer: torch.optim.Optimizer, ema_decay: float | None = None) -> TrainState:
    """The state before the first step.

    Args:
        network: on its device.
        optimizer: over its weights.
        ema_decay: share of itself that the moving average keeps at a step; early steps keep less of it.
    """
    if ema_decay is None:
        return TrainState(network, optimizer)

    def update(averages: Any, weights: Any, steps: Any) -> None:
        decay = min(ema_decay, int(steps) / (int(steps) + _EMA_WARMUP))
        if not averages[0].is_floating_point():  # indices, whose mean torch would round down
            decay = 0
        get_ema_multi_avg_fn(decay)(averages, weights, steps)

    averaged = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False).eval()
    averaged.n_averaged += 1  # the fresh weights are the first of the average
    return TrainState(network, optimizer, averaged)


def begin(task: Task[Any], seed: int, device: torch.device) -> TrainState:
    """The state before a task's first step, the same for the same seed."""
    torch.manual_seed(seed)
    network = task.new_network().to(device)
    return new_state(network, task.new_optimizer(network), task.course.ema_decay)


def save_checkpoint(state: TrainState, path: Path) -> None:
    """Writes everything that a resumed run needs; the file is complete or absent."""
    partial_path = path.with_suffix(".partial")
    saved = {
        "model": state.network.state_dict(),
        "averaged": None if state.averaged is None else state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "epoch": state.epoch,
        "history": state.history,
    }
    torch.save(saved, partial_path)
    partial_path.replace(path)


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Puts the state back to what `save_checkpoint` wrote.

    Raises:
        ConfigError: an earlier version of this package wrote the file.
    """
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "averaged" not in saved:
        raise ConfigError(f"checkpoint {path} is of an earlier version; give the run another name")
    state.network.load_state_dict(saved["model"])
    if state.averaged is not None:
        state.averaged.load_state_dict(saved["averaged"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.epoch, state.history = saved["step"], saved["epoch"], saved["history"]


@dataclass(frozen=True)
class BatchPlan:
    """Which of a worker's examples an epoch shows, and in which order.

    Attributes:
        repeats: (n) how often each of the worker's examples appears in an epoch.
        batch_size: examples per step.
        steps: of an epoch; the same on every worker, whatever its share. Examples start over where a share is too
            short and wait for another epoch where it is too long.
        seed: of the run.
        rank: of the worker.
    """

    repeats: UInt8[np.ndarray, " n"]
    batch_size: int
    steps: int
    seed: int
    rank: int = 0

    def batches(self, epoch: int) -> Int64[np.ndarray, "s b"]:
        """The examples' numbers for each step of an epoch; the same for the same seed, rank and epoch."""
        pool = np.repeat(np.arange(len(self.repeats)), self.repeats)
        order = np.random.default_rng((self.seed, epoch, self.rank)).permutation(pool)
        return np.resize(order, (self.steps, self.batch_size))


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, none of them None; the next one is made while the caller works on the last."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, source, None)
        while (item := waiting.result()) is not None:
            waiting = pool.submit(next, source, None)
            yield item


def mean_over_workers(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """The means over all workers; every worker must call it with the same names."""
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total /= torch.distributed.get_world_size()
    return dict(zip(values, total.tolist(), strict=True))


def train_step(
    state: TrainState,
    losses: Losses[Batch],
    batches: Sequence[Batch],
    rate: float,
    done: float = 1.0,
    max_norm: float = math.inf,
) -> dict[str, float]:
    """Does one optimiser step along the mean gradient of some batches and returns the means of loss and terms.

    A gradient that is not finite changes no weight: one impossible example must not end a run.

    Args:
        state: changed in place.
        losses: what to minimise.
        batches: of this step, equally many examples each.
        rate: learning rate of this step.
        done: share of the training that is done, 0 to 1.
        max_norm: a longer gradient is shortened to this length.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    total: dict[str, float] = {}
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        quiet = getattr(state.model, "no_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else quiet():  # workers exchange gradients once a step
            terms = losses(state.model, batch, done)
            (terms["loss"] / len(batches)).backward()
        for name, term in terms.items():
            total[name] = total.get(name, 0.0) + float(term.detach()) / len(batches)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if bool(torch.isfinite(norm)):
        if math.isfinite(max_norm):
            nn.utils.clip_grads_with_norm_(state.model.parameters(), max_norm, norm)
        state.optimizer.step()
    state.step += 1
    if state.averaged is not None:
        state.averaged.update_parameters(state.network)
    return total


def train(task: Task[Batch], state: TrainState, worker: Worker, out: Path, keep: Keep) -> str | None:
    """Trains from the epoch that the state has reached to the last.

    Args:
        task: what to learn.
        state: changed in place.
        worker: this process.
        out: folder of the results; the first worker leaves the strip and TensorBoard's figures there.
        keep: called with the figures of every reported epoch, on all workers equally often.

    Returns:
        What `keep` returned when that was not None, which ends the training early; None after the last epoch.
    """
    course = task.course
    journal = _Journal(task, state, out) if worker.rank == 0 else None
    means = _Means(course.images_per_step)
    while state.epoch < course.epochs:
        for number, batches in enumerate(prefetched(task.steps(state.epoch))):
            at = state.epoch * course.steps + number
            rate = course.schedule.at(at)
            done = at / (course.steps * course.epochs)
            terms = train_step(state, task.losses, batches, rate, done, course.max_norm)
            means.add(terms)
            if journal is not None:
                journal.progress((at + 1) / course.steps, terms | {"images_per_second": means.images_per_second})
        state.epoch += 1
        if state.epoch % course.checkpoint_epochs and state.epoch < course.epochs:
            continue
        row = {"epoch": float(state.epoch)} | task.facts(state.epoch)
        row |= {"rate": rate, "images_per_second": means.images_per_second}
        row |= mean_over_workers(means.terms(), worker.device) | _validated(task, state, worker)
        state.history.append(row)
        if journal is not None:
            journal.add(row, batches[0])
        refused = keep(row, partial(save_checkpoint, state))
        if refused is not None:
            return refused
        means = _Means(course.images_per_step)
    return None


def _validated(task: Task[Any], state: TrainState, worker: Worker) -> dict[str, float]:
    """The means of the figures over all workers' validation examples."""
    row, count = task.validate(state.average)
    share = mean_over_workers({"count": float(count)}, worker.device)["count"]
    return {k: v / share for k, v in mean_over_workers({k: v * count for k, v in row.items()}, worker.device).items()}


class _Means:
    """Means of the loss's terms and the speed since it was made."""

    def __init__(self, images_per_step: int):
        self._images_per_step, self._began, self._steps = images_per_step, time.monotonic(), 0
        self._sums: dict[str, float] = {}

    def add(self, terms: dict[str, float]) -> None:
        self._steps += 1
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def terms(self) -> dict[str, float]:
        return {name: value / self._steps for name, value in self._sums.items()}

    @property
    def images_per_second(self) -> float:
        return self._steps * self._images_per_step / (time.monotonic() - self._began)


class _Journal:
    """What the first worker leaves in the folder of the results while it trains, and says meanwhile."""

    def __init__(self, task: Task[Any], state: TrainState, out: Path):
        from torch.utils.tensorboard import SummaryWriter

        self._task, self._state, self._out = task, state, out
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=state.epoch)
        self._began, self._first_epoch = time.monotonic(), state.epoch
        self._said = self._began - _PAUSE_S + QUIET_S  # the first line comes soon
        originals = task.originals()
        if originals is not None:
            write_originals(out, originals)
        # A run that goes on, or is over, may find another folder for its results than it began with.
        if task.strip_at_start if state.epoch == 0 else not has_strip(out):
            write_strip(out, state.epoch, task.strip(state.average))

    def progress(self, epochs_done: float, figures: dict[str, float], always: bool = False) -> None:
        """Prints figures and the time that is left, if it is time for a line or `always`."""
        now = time.monotonic()
        if not always and now - self._said < _PAUSE_S:
            return
        self._said = now
        epochs = self._task.course.epochs
        left = (now - self._began) / max(epochs_done - self._first_epoch, 1e-6) * (epochs - epochs_done)
        clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if self._task.is_shown(name))
        print(f"epoch {epochs_done:.1f} of {epochs}, {clock} left: {shown}", flush=True)

    def add(self, row: dict[str, float], batch: Any) -> None:
        """Adds the figures and pictures of an epoch that is over."""
        task, state, course = self._task, self._state, self._task.course
        for key, value in row.items():
            self._board.add_scalar(key, value, state.epoch)
        picture = task.training_picture(state.average, batch)
        if picture is not None:
            self._board.add_image("training pictures and predictions", picture, state.epoch, dataformats="HWC")
        if state.epoch % course.strip_epochs < course.checkpoint_epochs or state.epoch == course.epochs:
            strip = task.strip(state.average)
            write_strip(self._out, state.epoch, strip)
            self._board.add_image("strip", strip, state.epoch, dataformats="HWC")
        self._board.flush()
        self.progress(state.epoch, row, always=True)
