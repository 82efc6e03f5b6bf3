"""Training the U-Net on Ray Train: data parallel workers, checkpoints in any storage, resume by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from jaxtyping import UInt8
from torch.utils.tensorboard import SummaryWriter

from raylib.config import TrainUnetConfig
from raylib.datasets.labelled import IGNORE, LabelledPhoto
from raylib.datasets.segmentation_sets import Splits, split_photos
from raylib.errors import ConfigError
from raylib.networks.unet import UNet
from raylib.provenance import environment, sha256
from raylib.segmentation import FaceSegmenter, Label, draw_labels, load_weights, save_weights
from raylib.segmentation_metrics import class_scores
from raylib.training.augmentation import Augmentation
from raylib.training.curves import draw_curves
from raylib.training.photo_cache import cache_photos
from raylib.training.precision import resolve_precision
from raylib.training.ray_run import (
    Progress,
    absolute,
    absolute_run,
    from_storage,
    mean_over_workers,
    report,
    resume,
    run_trainer,
)
from raylib.training.strips import row_of, strip_index, write_originals, write_strip
from raylib.training.unet_evaluation import comparison_row, contact_sheet
from raylib.training.unet_loop import (
    BatchPlan,
    Schedule,
    TrainState,
    augmented_batches,
    load_checkpoint,
    new_state,
    predict,
    save_checkpoint,
    train_step,
    validate,
)

_SCORE = "val_mean_f1"


def _cached(photos: tuple[LabelledPhoto, ...], size: int) -> tuple[UInt8[np.ndarray, ...], UInt8[np.ndarray, ...]]:
    images, labels = cache_photos(photos, size)
    for index, photo in enumerate(photos):
        if photo.dataset == "helen":  # its background holds ears and necks, which are skin elsewhere
            labels[index][labels[index] == Label.BACKGROUND] = IGNORE
    return images, labels


def _build(config: TrainUnetConfig) -> UNet:
    if config.init_weights:
        network, _ = load_weights(Path(config.init_weights))
        return network.train()
    torch.manual_seed(config.seed)
    return UNet(config.widths, len(Label), norm=config.norm)


def _input_px(config: TrainUnetConfig) -> int:
    return config.input_px or config.stages[-1].size_px


def _repeats(config: TrainUnetConfig, splits: Splits) -> UInt8[np.ndarray, " n"]:
    """Returns how often an epoch shows each training photograph."""
    return np.array([config.fasseg_repeat if p.dataset == "fasseg" else 1 for p in splits.train], np.uint8)


def steps_per_epoch(config: TrainUnetConfig, splits: Splits, num_workers: int) -> int:
    """Returns the optimiser steps of an epoch."""
    return max(1, int(_repeats(config, splits).sum()) // (config.batch_size * num_workers))


def _validation_row(
    state: TrainState, share: tuple[np.ndarray, np.ndarray], config: TrainUnetConfig, device: torch.device
) -> dict[str, float]:
    """Returns the figures of the averaged network over all workers' validation photographs."""
    precision = resolve_precision(config.precision, device)
    confusion = torch.from_numpy(validate(state.average, *share, config.batch_size, device, precision)).to(device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(confusion)
    scores = class_scores(confusion.cpu().numpy())
    row = {f"val_f1_{label.name.lower()}": float(scores.f1[label]) for label in Label}
    return {_SCORE: float(scores.mean_f1), "val_pixel_accuracy": float(scores.pixel_accuracy), **row}


def _write_board(board: SummaryWriter, state: TrainState, batch: torch.Tensor, row: dict[str, float]) -> None:
    """Adds an epoch's figures to TensorBoard, and some training pictures above what the network makes of them."""
    for key, value in row.items():
        board.add_scalar(key, value, state.epoch)
    with torch.inference_mode():
        guess = draw_labels(state.average(batch).argmax(1).to(torch.uint8).cpu().numpy())
    seen = (batch * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    picture = np.concatenate([np.concatenate(list(seen), 1), np.concatenate(list(guess), 1)])
    board.add_image("training pictures and predictions", picture, state.epoch, dataformats="HWC")
    board.flush()


def train_worker(args: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs: its share of the photographs, all epochs, from the last checkpoint on.

    Args:
        args: `config`, the TrainUnetConfig, and `splits`, the photographs.

    Returns:
        Why it ended early, None after the last epoch.
    """
    config: TrainUnetConfig = args["config"]
    splits: Splits = args["splits"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.threads_per_worker)
    device = ray.train.torch.get_device()
    precision = resolve_precision(config.precision, device)

    network = _build(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = new_state(network.to(device), config.weight_decay)
    resume(partial(load_checkpoint, state))
    state.model = ray.train.torch.prepare_model(network)

    repeats = _repeats(config, splits)
    steps = steps_per_epoch(config, splits, world)
    plan = BatchPlan(repeats[rank::world], config.batch_size, steps, config.seed, rank)
    images, labels = _cached(splits.train[rank::world], config.cache_px)
    validation = _cached(splits.validation[rank::world], _input_px(config))
    stages = [stage for stage in config.stages for _ in range(stage.epochs)]
    schedule = Schedule(steps * len(stages), config.warmup_steps, config.learning_rate)
    out = Path(config.out)
    board = SummaryWriter(str(out / "tensorboard"), purge_step=state.epoch) if rank == 0 else None
    shown = strip_index(len(validation[0]))
    if rank == 0:
        truth = np.where(validation[1][shown] == IGNORE, np.uint8(Label.BACKGROUND), validation[1][shown])
        write_originals(out, np.concatenate([row_of(validation[0][shown]), row_of(draw_labels(truth))]))
    progress = Progress(state.epoch, len(stages))
    losses: list[float] = []
    while state.epoch < len(stages):
        size, how = stages[state.epoch].size_px, Augmentation().scaled(stages[state.epoch].augmentation)
        for number, (x, y) in enumerate(augmented_batches(images, labels, plan, state.epoch, size, how, device)):
            rate = schedule.at(state.step)
            losses.append(train_step(state, x, y, rate, config.ema_decay, precision))
            if rank == 0:
                progress(state.epoch + (number + 1) / steps, f"loss {np.mean(losses[-steps:]):.4f}")
        state.epoch += 1
        if state.epoch % config.checkpoint_epochs and state.epoch < len(stages):
            continue
        row = {"epoch": float(state.epoch), "size_px": float(size), "rate": rate}
        row |= mean_over_workers({"loss": float(np.mean(losses))}, device)
        row |= _validation_row(state, validation, config, device)
        losses.clear()
        state.history.append(row)
        if board is not None:
            _write_board(board, state, x[:8], row)
            guess = predict(state.average, validation[0][shown], device, precision)
            write_strip(out, state.epoch, row_of(draw_labels(guess)))
            progress(state.epoch, f"loss {row['loss']:.4f}, validation F1 {row[_SCORE]:.4f}", always=True)
        refused = report(row, partial(save_checkpoint, state), device)
        if refused is not None:
            return refused
    return None


def _write_results(config: TrainUnetConfig, splits: Splits, result: ray.train.Result) -> Path:
    """Writes the best epoch's weights, the curves, the contact sheet and the configuration; returns the weights."""
    out = Path(config.out)
    best = result.get_best_checkpoint(_SCORE, "max")
    network = _build(config)
    state = new_state(network, config.weight_decay)
    from_storage(result.checkpoint, partial(load_checkpoint, state))
    history = state.history
    from_storage(best, partial(load_checkpoint, state))
    best_row = state.history[-1]
    weights = out / "unet.safetensors"
    save_weights(state.average, weights, _input_px(config))
    (out / "history.json").write_text(json.dumps(history, indent=1))
    record = {
        "job": "train_unet",
        "config": asdict(config),
        "photographs": {name: len(getattr(splits, name)) for name in ("train", "validation", "test", "left_out")},
        "best": best_row,
        "weights_sha256": sha256(weights),
    }
    (out / "run.json").write_text(json.dumps(record | environment(("torch", "ray")), indent=1))
    columns = {key: [row[key] for row in history] for key in history[0]}
    f1 = {label.name.lower(): columns[f"val_f1_{label.name.lower()}"] for label in Label}
    panels = {"training loss": {"loss": columns["loss"]}, "validation F1": f1, "mean": {"mean F1": columns[_SCORE]}}
    (out / "curves.svg").write_text(draw_curves(columns["epoch"], panels))
    segmenter = FaceSegmenter(weights)
    rows = []
    for photo in splits.validation[:: max(1, len(splits.validation) // 18)][:18]:
        image, labels = photo.load()
        rows.append(comparison_row(image, segmenter.segment(image[None])[0], labels))
    contact_sheet(rows).save(out / "contact_sheet.png")
    return weights


def checked(config: TrainUnetConfig) -> tuple[TrainUnetConfig, Splits]:
    """Returns the configuration with absolute paths, and the photographs that it names.

    Raises:
        ConfigError: data or weights are not what the configuration says.
    """
    data = config.data
    data = replace(
        data, fasseg=absolute(data.fasseg), celebamask=absolute(data.celebamask), helen=absolute(data.helen)
    )
    config = absolute_run(replace(config, data=data, init_weights=absolute(config.init_weights)))
    splits = split_photos(config.data)
    if not splits.train or not splits.validation:
        raise ConfigError(
            f"data gives {len(splits.train)} training and {len(splits.validation)} validation photographs, expected "
            "some of each; see data.fasseg_validation and data.celebamask_validation"
        )
    if config.init_weights:
        load_weights(Path(config.init_weights))
    return config, splits


def run_training(config: TrainUnetConfig) -> Path:
    """Trains, or goes on with the run of the same name, and returns the path of the best epoch's weights.

    Connects to the Ray cluster of the environment, or starts Ray here.

    Raises:
        ConfigError: data, weights or checkpoints are not what the configuration says.
        StorageError: checkpoints cannot be written any more.
    """
    config, splits = checked(config)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    for sentence in splits.left_out:
        print(f"left out: {sentence}")
    args = {"config": config, "splits": splits}
    return _write_results(config, splits, run_trainer(train_worker, args, config, _SCORE, "max"))
