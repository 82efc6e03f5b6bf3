"""What a training would do: `--dry-run` of jobs/train_unet.py and jobs/train_meshnet.py. Starts no Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs
from rich.console import Console

from raylib.config import (
    TrainBabyMeshnetConfig,
    TrainMeshConfig,
    TrainRegressorConfig,
    TrainRun,
    TrainUnetConfig,
)
from raylib.datasets.face_set import cache_file
from raylib.errors import ConfigError
from raylib.io.imagenet_weights import weights_plan
from raylib.morphable.model import load_prior
from raylib.paper.vgg import load_vgg
from raylib.runtime.progress import say
from raylib.synthesis.parquet import SyntheticDataset
from raylib.training.paper import run as meshnet_ray
from raylib.training.paper import task as meshnet_loop
from raylib.training.paper.data import face_sources, num_train
from raylib.training.regressor import run as face_meshnet_ray
from raylib.training.regressor import task as face_meshnet_loop
from raylib.training.regressor.samples import FaceSamples
from raylib.training.segmentation import run as unet_ray
from raylib.training.segmentation import task as unet_loop

_ALWAYS = ("history.json", "run.json", "curves.svg", "strip/", "tensorboard/", "report.html")
"""What every training leaves in its folder."""


def print_unet_plan(config: TrainUnetConfig, console: Console) -> None:
    """Says which photographs a training of the U-Net would see, how long it is and what is there already.

    Raises:
        ConfigError: data, weights or storage are not what the configuration says.
    """
    config, splits = unet_ray.checked(config)
    counts = {name: len(getattr(splits, name)) for name in ("train", "validation", "test", "left_out")}
    say(console, f"photographs: {', '.join(f'{count} {name}' for name, count in counts.items())}".replace("_", " "))
    steps = unet_loop.steps_per_epoch(config, splits, config.num_workers)
    for stage in config.stages:
        say(console, f"would train {stage.epochs} epochs of {steps} steps at {stage.size_px} pixels")
    _say_run(config, config.epochs, console)
    say_outputs(config.out, ("unet.safetensors", "contact_sheet.png", *_ALWAYS), console)


def print_meshnet_plan(config: TrainMeshConfig, console: Console) -> None:
    """Says which faces a training of a mesh network would see, how long it is and what is there already.

    Raises:
        ConfigError: data, weights or storage are not what the configuration says.
    """
    if isinstance(config, TrainRegressorConfig):
        _print_face_plan(config, console)
        return
    config = meshnet_ray.checked(config)
    if meshnet_ray.uses_vgg(config):
        say(console, weights_plan("VGG19's weights", config.paper.vgg_weights, load_vgg))
    count: int | None = 1
    if not isinstance(config, TrainBabyMeshnetConfig):
        sources = face_sources(config.data, config.image_px)
        if not sources:
            raise ConfigError("data names no faces, expected some; see data.rendered, data.labelled and data.photos")
        for source in sources:
            there = cache_file(Path(config.data.cache), source.key).exists()
            say(console, f"{source.what}: {'prepared already' if there else 'to be prepared first'}")
        count = num_train(config.data, sources)
    steps = "as many steps as show every face once"
    if config.steps_per_epoch or count is not None:
        steps = f"{meshnet_loop.steps_per_epoch(config, count or 1, config.num_workers)} steps"
    say(console, f"would train {config.network} for {config.epochs} epochs of {steps}")
    _say_run(config, config.epochs, console)
    weights = () if config.network == "babymeshnet" else ("meshnet.safetensors",)
    say_outputs(config.out, (*weights, "figures", "meshes", *_ALWAYS), console)


def _print_face_plan(config: TrainRegressorConfig, console: Console) -> None:
    config = face_meshnet_ray.checked(config)
    face, counts = config.face, {}
    for part, source in (("train", face.synthetic), ("validation", face.validation)):
        folder, done = face_meshnet_ray.sample_folder(config, part)
        counts[part] = len(FaceSamples(folder, load_prior())) if done else len(SyntheticDataset(source))
        state = f"prepared already in {folder}" if done else f"of {source}, to be prepared first in {folder}"
        say(console, f"{part}: {counts[part]} faces {state}")
    folder, done = face_meshnet_ray.sample_folder(config, "photographs")
    chosen = face_meshnet_ray.training_photographs(config)
    if chosen:
        state = "prepared already" if done else "to be prepared first"
        say(console, f"photographs: {len(chosen)} {state} in {folder}")
    steps = face_meshnet_loop.steps_per_epoch(config, counts["train"], config.num_workers)
    say(console, f"would train meshnet for {config.epochs} epochs of about {steps} steps")
    _say_run(config, config.epochs, console)
    say_outputs(config.out, ("meshnet.safetensors", "meshes", *_ALWAYS), console)


def _say_run(run: TrainRun, epochs: int, console: Console) -> None:
    """Says on what a training runs, and where it begins."""
    device = "GPUs" if run.use_gpu else "processor cores"
    say(console, f"on {run.num_workers} workers on {device}, precision {run.precision}")
    there = _checkpoints(run)
    where = f"{run.storage_path}/{run.name}"
    if there:
        say(console, f"would go on from {there[-1]} in {where} up to epoch {epochs}")
    else:
        say(console, f"would begin anew, with checkpoints in {where}")


def _checkpoints(run: TrainRun) -> list[str]:
    """Returns the names of the run's checkpoints, oldest first.

    Raises:
        ConfigError: the storage cannot be read.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(run.storage_path)
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{path}/{run.name}", allow_not_found=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"storage_path {run.storage_path!r} cannot be read: {reason}") from error
    return sorted(info.base_name for info in found if info.base_name.startswith("checkpoint_") and not info.is_file)


def say_outputs(out: str, names: tuple[str, ...], console: Console) -> None:
    """Says which files a run would write."""
    say(console, f"would write {', '.join(names)} to {out}")
