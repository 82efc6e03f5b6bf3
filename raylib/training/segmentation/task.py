"""The U-Net's training as a task of `loop`: photographs, loss, validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from raylib.config import TrainUnetConfig
from raylib.datasets.labelled import IGNORE, LabelledPhoto
from raylib.datasets.segmentation_sets import Splits
from raylib.metrics.segmentation import class_scores, confusion_matrix
from raylib.segmentation.labels import Label, draw_labels
from raylib.segmentation.segmenter import load_weights
from raylib.segmentation.unet import UNet
from raylib.training.augmentation import Augmentation, augment
from raylib.training.loop import BatchPlan, Course, Schedule, Task, Worker
from raylib.training.precision import resolve_precision
from raylib.training.segmentation.loss import segmentation_loss
from raylib.training.segmentation.photo_cache import cache_photos
from raylib.training.strips import row_of, strip_index

UnetBatch = tuple[Float[Tensor, "b 3 h w"], UInt8[Tensor, "b h w"]]
"""Pictures of values in 0..1, and their declared labels or IGNORE."""

_MAX_NORM = 1.0
_BOARD_PICTURES = 8


class UnetTask(Task[UnetBatch]):
    """The U-Net learns the labels of photographs.

    Args:
        config: of the run.
        splits: all photographs; a worker reads its share when it needs it.
        worker: whose task it is.
    """

    score = "val_mean_f1"
    higher_is_better = True

    def __init__(self, config: TrainUnetConfig, splits: Splits, worker: Worker):
        self._config, self._splits, self._worker = config, splits, worker
        self._precision = resolve_precision(config.precision, worker.device)
        self._stages = [stage for stage in config.stages for _ in range(stage.epochs)]
        steps = steps_per_epoch(config, splits, worker.world)
        self.course = Course(
            epochs=len(self._stages),
            steps=steps,
            schedule=Schedule(steps * len(self._stages), config.warmup_steps, config.learning_rate),
            images_per_step=config.batch_size * worker.world,
            checkpoint_epochs=config.checkpoint_epochs,
            ema_decay=config.ema_decay,
            max_norm=_MAX_NORM,
        )

    @cached_property
    def _train(self) -> tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]]:
        return self._share(self._splits.train, self._config.cache_px)

    @cached_property
    def _validation(self) -> tuple[UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s"]]:
        return self._share(self._splits.validation, input_px(self._config))

    def _share(self, photos: tuple[LabelledPhoto, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
        photos = photos[self._worker.rank :: self._worker.world]
        images, labels = cache_photos(photos, size)
        for index, photo in enumerate(photos):
            if photo.dataset == "helen":  # its background holds ears and necks, which are skin elsewhere
                labels[index][labels[index] == Label.BACKGROUND] = IGNORE
        return images, labels

    def new_network(self) -> UNet:
        """The network of the configured weights file, or a fresh one."""
        config = self._config
        if config.init_weights:
            network = load_weights(Path(config.init_weights))[0].train()
        else:
            network = UNet(config.widths, len(Label), norm=config.norm)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW over all weights."""
        return adamw(network, self._config.weight_decay)

    def steps(self, epoch: int) -> Iterator[Sequence[UnetBatch]]:
        """The epoch's augmented batches."""
        config, worker, stage = self._config, self._worker, self._stages[epoch]
        repeats = _repeats(config, self._splits)[worker.rank :: worker.world]
        plan = BatchPlan(repeats, config.batch_size, self.course.steps, config.seed, worker.rank)
        how = Augmentation().scaled(stage.augmentation)
        for batch in augmented_batches(*self._train, plan, epoch, stage.size_px, how, worker.device):
            yield (batch,)

    def losses(self, model: nn.Module, batch: UnetBatch, done: float) -> dict[str, Tensor]:
        """The segmentation's loss, which has no terms of its own."""
        return label_losses(model, batch, done, self._precision)

    def validate(self, network: UNet) -> tuple[dict[str, float], int]:
        """F1 of each label and of all, over the photographs of all workers together."""
        worker = self._worker
        confusion = validate(network, *self._validation, self._config.batch_size, worker.device, self._precision)
        total = torch.from_numpy(confusion).to(worker.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        scores = class_scores(total.cpu().numpy())
        row = {f"val_f1_{label.name.lower()}": float(scores.f1[label]) for label in Label}
        return {self.score: float(scores.mean_f1), "val_pixel_accuracy": float(scores.pixel_accuracy), **row}, 1

    def facts(self, epoch: int) -> dict[str, float]:
        """The side of the epoch's training pictures."""
        return {"size_px": float(self._stages[epoch - 1].size_px)}

    def strip(self, network: UNet) -> UInt8[np.ndarray, "h w 3"]:
        """The label maps that the network gives some validation photographs."""
        images = self._validation[0][strip_index(len(self._validation[0]))]
        return row_of(draw_labels(predict(network, images, self._worker.device, self._precision)))

    def originals(self) -> UInt8[np.ndarray, "h w 3"]:
        """These photographs above their true labels."""
        images, labels = (part[strip_index(len(part))] for part in self._validation)
        truth = np.where(labels == IGNORE, np.uint8(Label.BACKGROUND), labels)
        return np.concatenate([row_of(images), row_of(draw_labels(truth))])

    @torch.inference_mode()
    def training_picture(self, network: UNet, batch: UnetBatch) -> UInt8[np.ndarray, "h w 3"]:
        """Some pictures as augmentation left them above what the network makes of them."""
        images = batch[0][:_BOARD_PICTURES]
        guess = draw_labels(network(images).argmax(1).to(torch.uint8).cpu().numpy())
        seen = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return np.concatenate([row_of(seen), row_of(guess)])

    def is_shown(self, figure: str) -> bool:
        """Loss, speed and mean F1: the others are many."""
        return figure in ("loss", "images_per_second", self.score)


def input_px(config: TrainUnetConfig) -> int:
    """The side of the pictures that the trained network is to see."""
    return config.input_px or config.stages[-1].size_px


def _repeats(config: TrainUnetConfig, splits: Splits) -> UInt8[np.ndarray, " n"]:
    """How often an epoch shows each training photograph."""
    return np.array([config.fasseg_repeat if p.dataset == "fasseg" else 1 for p in splits.train], np.uint8)


def steps_per_epoch(config: TrainUnetConfig, splits: Splits, num_workers: int) -> int:
    """The optimiser steps of an epoch."""
    return max(1, int(_repeats(config, splits).sum()) // (config.batch_size * num_workers))


def adamw(network: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over all weights; the loop sets the learning rate."""
    return torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=weight_decay)


def label_losses(model: nn.Module, batch: UnetBatch, done: float, precision: torch.dtype) -> dict[str, Tensor]:
    """The loss of a batch.

    Args:
        model: the network or its data parallel wrapper.
        batch: pictures and labels.
        done: share of the training that is done, which changes nothing here.
        precision: float32, or bfloat16 for mixed precision (it needs no loss scaling).
    """
    images, labels = batch
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = model(images)
    return {"loss": segmentation_loss(logits, labels)}


def augmented_batches(
    images: UInt8[np.ndarray, "n s s 3"],
    labels: UInt8[np.ndarray, "n s s"],
    plan: BatchPlan,
    epoch: int,
    size: int,
    how: Augmentation,
    device: torch.device,
) -> Iterator[UnetBatch]:
    """Yields an epoch's training batches, augmented on the device."""
    seed = np.random.SeedSequence((plan.seed, epoch, plan.rank)).generate_state(1, np.uint64)[0]
    rng = torch.Generator(device).manual_seed(int(seed))
    for chosen in plan.batches(epoch):
        x = torch.from_numpy(images[chosen]).to(device, non_blocking=True)
        y = torch.from_numpy(labels[chosen]).to(device, non_blocking=True)
        x, y = augment(x, y, size, how, rng)
        yield x.contiguous(memory_format=torch.channels_last), y


@torch.inference_mode()
def validate(
    network: UNet,
    images: UInt8[np.ndarray, "n s s 3"],
    labels: UInt8[np.ndarray, "n s s"],
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> Int64[np.ndarray, "k k"]:
    """The confusion matrix over stored photographs, as many pixels as they have."""
    total = np.zeros((network.num_classes, network.num_classes), np.int64)
    for start in range(0, len(images), batch_size):
        guess = predict(network, images[start : start + batch_size], device, precision)
        total += confusion_matrix(labels[start : start + batch_size], guess, network.num_classes, IGNORE)
    return total


@torch.inference_mode()
def predict(
    network: UNet, images: UInt8[np.ndarray, "n s s 3"], device: torch.device, precision: torch.dtype
) -> UInt8[np.ndarray, "n s s"]:
    """The label maps that the network gives photographs."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        guess = network(x.contiguous(memory_format=torch.channels_last)).argmax(1)
    return np.asarray(guess.to(torch.uint8).cpu().numpy())
