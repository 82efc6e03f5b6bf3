"""Training the paper's networks on Ray Train: from the configuration to the results of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from raylib.config import TrainBabyMeshnetConfig, TrainPaperConfig
from raylib.errors import ConfigError
from raylib.io.imagenet_weights import TORCHVISION
from raylib.paper.templates import load_template
from raylib.paper.vgg import load_vgg
from raylib.runtime.ray_cluster import join_ray
from raylib.training.loop import Worker
from raylib.training.paper.data import prepare_faces
from raylib.training.paper.results import write_results
from raylib.training.paper.tasks import BabyTask, FaceTask
from raylib.training.ray_run import absolute, absolute_data, absolute_run, check_storage, run_trainer

_NAMED = ("sphere", "hemisphere", "teapot")


def _mesh(name: str) -> str:
    return name if name in _NAMED else str(absolute(name))


def checked(config: TrainPaperConfig | TrainBabyMeshnetConfig) -> TrainPaperConfig | TrainBabyMeshnetConfig:
    """The configuration with absolute paths, after a look at what the workers will read.

    Raises:
        ConfigError: template or target cannot be read.
    """
    weights = config.paper.vgg_weights
    weights = weights if weights == TORCHVISION else str(absolute(weights))
    template = _mesh(config.paper.template)
    load_template(template)
    if isinstance(config, TrainBabyMeshnetConfig):
        target = _mesh(config.paper.target)
        load_template(target)
        baby = replace(config.paper, template=template, target=target, vgg_weights=weights)
        return absolute_run(replace(config, paper=baby))
    data = config.data
    labelled = absolute_data(data.labelled)
    data = replace(data, labelled=labelled, photos=absolute(data.photos), cache=str(absolute(data.cache)))
    paper = replace(config.paper, template=template, vgg_weights=weights)
    return absolute_run(replace(config, data=data, paper=paper))


def uses_vgg(config: TrainPaperConfig | TrainBabyMeshnetConfig) -> bool:
    """Whether the weights of VGG19 are read; a file that is named is, even where its term has no weight."""
    return config.paper.loss.vgg > 0 or config.paper.vgg_weights != TORCHVISION


def _face_task(config: TrainPaperConfig, faces: list[Any], worker: Worker) -> FaceTask:
    train, validation = ray.get(faces[0])
    return FaceTask(config, train, validation, worker)


def _baby_task(config: TrainBabyMeshnetConfig, data: None, worker: Worker) -> BabyTask:
    return BabyTask(config, worker)


def run_training(config: TrainPaperConfig | TrainBabyMeshnetConfig) -> Path:
    """Trains, or goes on with the run of the same name, and returns the folder of the results.

    Connects to the Ray cluster of the environment, or starts Ray here.

    Raises:
        ConfigError: data, weights or checkpoints are not what the configuration says.
        StorageError: checkpoints cannot be written any more.
    """
    config = checked(config)
    if uses_vgg(config):
        load_vgg(config.paper.vgg_weights)
    check_storage(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(config, TrainBabyMeshnetConfig):
        write_results(config, run_trainer(_baby_task, None, config))
        return out
    faces = prepare_faces(config.data, config.image_px)
    counts = f"{len(faces[0])} faces for training, {len(faces[1])} for validation"
    if min(map(len, faces)) < config.num_workers:
        raise ConfigError(f"num_workers is {config.num_workers}, expected at most one a face: there are {counts}")
    print(counts, flush=True)
    join_ray(worker_output=True)
    # In a list: Ray would replace a bare reference by all of the faces, once for every worker.
    write_results(config, run_trainer(_face_task, [ray.put(faces)], config))
    return out
