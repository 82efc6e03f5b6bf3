"""Training the mesh networks on Ray Train: data parallel workers, checkpoints in any storage, resume by name."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from torch.utils.tensorboard import SummaryWriter

from raylib.config import PaperSettings, TrainMeshnetConfig
from raylib.datasets.face_set import FaceSet
from raylib.errors import ConfigError
from raylib.networks.imagenet import TORCHVISION
from raylib.networks.vgg import load_vgg
from raylib.ray_cluster import join_ray
from raylib.templates import load_template
from raylib.training.face_meshnet_ray import run_face_training
from raylib.training.meshnet_data import prepare_faces
from raylib.training.meshnet_loop import (
    MeshTrainState,
    Task,
    load_checkpoint,
    new_state,
    rate_at,
    save_checkpoint,
    train_step,
)
from raylib.training.meshnet_results import write_results
from raylib.training.paper_tasks import BabyTask, FaceTask
from raylib.training.ray_run import (
    Progress,
    absolute,
    absolute_run,
    check_storage,
    mean_over_workers,
    report,
    resume,
    run_trainer,
)
from raylib.training.strips import has_strip, write_originals, write_strip
from raylib.training.unet_loop import BatchPlan

SCORE = "val_loss"
"""Figure of the validation by which checkpoints are kept; small is good."""


def make_task(
    config: TrainMeshnetConfig,
    faces: tuple[FaceSet, FaceSet] | None,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Task:
    """Returns what the configured network is trained for, with a worker's share of the faces.

    Args:
        config: of the run.
        faces: for training and for validation; None for BabyMeshNet, which needs none.
        device: of the worker.
        rank: its number.
        world: number of workers.
    """
    if config.network == "babymeshnet":
        return BabyTask(config, device)
    assert faces is not None
    train, validation = (part.select(slice(rank, None, world)) for part in faces)
    return FaceTask(config, train, validation, device)


def steps_per_epoch(config: TrainMeshnetConfig, num_train: int) -> int:
    """Returns the optimiser steps of an epoch for so many training examples on all workers together."""
    per_step = config.images_per_worker * config.accumulate * config.num_workers
    return config.steps_per_epoch or max(1, num_train // per_step)


def _validation(task: Task, state: MeshTrainState, device: torch.device) -> dict[str, float]:
    """Returns the figures over all workers' validation examples."""
    row, count = task.validate(state.network)
    share = mean_over_workers({"count": float(count)}, device)["count"]
    return {k: v / share for k, v in mean_over_workers({k: v * count for k, v in row.items()}, device).items()}


def train_worker(args: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs: its share of the faces, all epochs, from the last checkpoint on.

    Args:
        args: `config`, the TrainMeshnetConfig, and `faces`, None or a reference to the prepared faces.

    Returns:
        Why it ended early, None after the last epoch.
    """
    config: TrainMeshnetConfig = args["config"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.threads_per_worker)
    device = ray.train.torch.get_device()
    faces = None if args["faces"] is None else ray.get(args["faces"][0])
    task = make_task(config, faces, device, rank, world)
    torch.manual_seed(config.seed)
    state = new_state(task.new_network().to(device))
    resume(partial(load_checkpoint, state))
    state.model = ray.train.torch.prepare_model(state.model)

    steps = steps_per_epoch(config, args["num_train"])
    passes = config.images_per_worker * config.accumulate
    plan = BatchPlan(np.ones(task.num_train, np.uint8), passes, steps, config.seed, rank)
    out = Path(config.out)
    board = SummaryWriter(str(out / "tensorboard"), purge_step=state.epoch) if rank == 0 else None
    # A run that goes on, or is over, may find another folder for its results than it began with.
    if rank == 0 and (state.epoch == 0 or not has_strip(out)):
        write_strip(out, state.epoch, task.strip(state.network))
        if isinstance(task, FaceTask):
            write_originals(out, task.originals())
    progress = Progress(state.epoch, config.epochs)
    sums: dict[str, float] = {}
    began, taken = time.monotonic(), 0
    while state.epoch < config.epochs:
        for number, chosen in enumerate(plan.batches(state.epoch)):
            done = (state.epoch + number / steps) / config.epochs
            rate = rate_at(done, config.learning_rate, config.decay_last)
            terms = train_step(state, task, np.split(chosen, config.accumulate), rate, done)
            taken += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            if rank == 0:
                text = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
                speed = taken * passes * world / (time.monotonic() - began)
                progress(state.epoch + (number + 1) / steps, f"{text}, {speed:.1f} images/s")
        state.epoch += 1
        if state.epoch % config.checkpoint_epochs and state.epoch < config.epochs:
            continue
        seconds = time.monotonic() - began
        row = {"epoch": float(state.epoch), "rate": rate, "images_per_second": taken * passes * world / seconds}
        row |= mean_over_workers({name: value / taken for name, value in sums.items()}, device)
        row |= _validation(task, state, device)
        state.history.append(row)
        if board is not None:
            for key, value in row.items():
                board.add_scalar(key, value, state.epoch)
            if state.epoch % config.strip_epochs < config.checkpoint_epochs or state.epoch == config.epochs:
                strip = task.strip(state.network)
                write_strip(out, state.epoch, strip)
                board.add_image("strip", strip, state.epoch, dataformats="HWC")
            board.flush()
            shown = ", ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in ("epoch", "rate"))
            progress(state.epoch, shown, always=True)
        refused = report(row, partial(save_checkpoint, state), device)
        if refused is not None:
            return refused
        sums.clear()
        began, taken = time.monotonic(), 0
    return None


def checked(config: TrainMeshnetConfig) -> TrainMeshnetConfig:
    """Returns the configuration with absolute paths, after a look at what the workers will read.

    Raises:
        ConfigError: template or target cannot be read.
    """
    paper, data = config.paper, config.data
    named = ("sphere", "hemisphere", "teapot")
    mesh = {name: getattr(paper, name) for name in ("template", "target")}
    mesh = {name: value if value in named else str(absolute(value)) for name, value in mesh.items()}
    vgg = paper.vgg_weights if paper.vgg_weights == TORCHVISION else str(absolute(paper.vgg_weights))
    labelled = replace(
        data.labelled,
        fasseg=absolute(data.labelled.fasseg),
        celebamask=absolute(data.labelled.celebamask),
        helen=absolute(data.labelled.helen),
    )
    data = replace(data, labelled=labelled, photos=absolute(data.photos), cache=str(absolute(data.cache)))
    paper = replace(paper, template=mesh["template"], target=mesh["target"], vgg_weights=vgg)
    load_template(paper.template)
    if config.network == "babymeshnet":
        load_template(paper.target)
    return absolute_run(replace(config, data=data, paper=paper))


def uses_vgg(paper: PaperSettings) -> bool:
    """Tells whether the weights of VGG19 are read; a file that is named is, even where its term has no weight."""
    return paper.loss.vgg > 0 or paper.vgg_weights != TORCHVISION


def run_training(config: TrainMeshnetConfig) -> Path:
    """Trains, or goes on with the run of the same name, and returns the folder of the results.

    Connects to the Ray cluster of the environment, or starts Ray here.

    Raises:
        ConfigError: data, weights or checkpoints are not what the configuration says.
        StorageError: checkpoints cannot be written any more.
    """
    if config.network == "meshnet":
        return run_face_training(config)
    config = checked(config)
    if uses_vgg(config.paper):
        load_vgg(config.paper.vgg_weights)
    check_storage(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    faces = None if config.network == "babymeshnet" else prepare_faces(config.data, config.image_px)
    if faces is not None and min(map(len, faces)) < config.num_workers:
        counts = f"{len(faces[0])} faces for training and {len(faces[1])} for validation"
        raise ConfigError(f"num_workers is {config.num_workers}, expected at most one a face: there are {counts}")
    join_ray(worker_output=True)
    args: dict[str, Any] = {"config": config, "faces": None, "num_train": 1}
    if faces is not None:
        print(f"{len(faces[0])} faces for training, {len(faces[1])} for validation", flush=True)
        # In a list: Ray would replace a bare reference by all of the faces, once for every worker.
        args |= {"faces": [ray.put(faces)], "num_train": len(faces[0])}
    result = run_trainer(train_worker, args, config, SCORE, "min")
    write_results(config, make_task(config, faces, torch.device("cpu")), result)
    return out
