"""What the trainings of the paper's networks share as tasks of `loop`: examples by number, Adam, the schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from raylib.config import TrainBabyMeshnetConfig, TrainPaperConfig
from raylib.training.loop import BatchPlan, Course, Schedule, Task, Worker


class PaperTask(Task[Int64[np.ndarray, " b"]]):
    """What both trainings share; their batches are numbers of examples.

    Args:
        config: of the run.
        num_train: training examples of all workers together.
        share: those of this worker.
        worker: whose task it is.
    """

    score = "val_loss"
    strip_at_start = True

    def __init__(self, config: TrainPaperConfig | TrainBabyMeshnetConfig, num_train: int, share: int, worker: Worker):
        steps, passes = steps_per_epoch(config, num_train, worker.world), config.images_per_worker * config.accumulate
        self._accumulate = config.accumulate
        self._plan = BatchPlan(np.ones(share, np.uint8), passes, steps, config.seed, worker.rank)
        self.course = Course(
            epochs=config.epochs,
            steps=steps,
            schedule=Schedule(steps * config.epochs, 0, config.learning_rate, config.decay_last),
            images_per_step=passes * worker.world,
            checkpoint_epochs=config.checkpoint_epochs,
            strip_epochs=config.strip_epochs,
        )

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam, as in the paper."""
        return adam(network)

    def steps(self, epoch: int) -> Iterator[Sequence[Int64[np.ndarray, " b"]]]:
        """The epoch's examples, some passes a step."""
        for chosen in self._plan.batches(epoch):
            yield np.split(chosen, self._accumulate)


def steps_per_epoch(config: TrainPaperConfig | TrainBabyMeshnetConfig, num_train: int, num_workers: int) -> int:
    """The optimiser steps of an epoch for so many training examples on all workers together."""
    per_step = config.images_per_worker * config.accumulate * num_workers
    return config.steps_per_epoch or max(1, num_train // per_step)


def adam(network: nn.Module) -> torch.optim.Optimizer:
    """Adam over all weights, each updated in one pass over memory, which is five times as fast on the CPU."""
    return torch.optim.Adam(network.parameters(), lr=0.0, fused=True)
