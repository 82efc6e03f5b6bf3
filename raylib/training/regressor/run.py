"""Training the network that corrects landmark fits on Ray: samples prepared side by side, then `ray_run`, results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from raylib.config import TrainRegressorConfig
from raylib.errors import ConfigError
from raylib.io.meshes import write_mesh
from raylib.lighting.color import linear_to_srgb
from raylib.metrics.curves import draw_curves
from raylib.morphable.model import load_prior
from raylib.regressor.weights import load_weights, save_weights
from raylib.runtime.progress import watched
from raylib.runtime.provenance import sha256
from raylib.runtime.ray_cluster import join_ray
from raylib.synthesis.parquet import SyntheticDataset
from raylib.training.loop import Worker
from raylib.training.ray_run import Trained, absolute, absolute_run, check_storage, run_trainer
from raylib.training.regressor.pictures import photographs, synthetic_pictures
from raylib.training.regressor.samples import LabelledFace, SampleMaker, write_samples, written_samples
from raylib.training.regressor.task import RegressorTask
from raylib.training.regressor.uncertainty import set_uncertainty

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_TOGETHER = 16  # pictures that are prepared together
_DONE = "done"
_MESHES = 4  # faces whose meshes are written

Group = tuple[Sequence[LabelledFace], Sequence[int]]
"""Pictures that are prepared together, and a number for each."""


def checked(config: TrainRegressorConfig) -> TrainRegressorConfig:
    """Returns the configuration with absolute paths."""
    face = config.face
    face = replace(
        face,
        synthetic=str(absolute(face.synthetic)),
        validation=str(absolute(face.validation)),
        photographs=absolute(face.photographs),
        cache=str(absolute(face.cache)),
        init_weights=absolute(face.init_weights),
    )
    if face.init_weights:
        load_weights(Path(face.init_weights), load_prior())
    return absolute_run(replace(config, face=face))


def training_photographs(config: TrainRegressorConfig) -> list[Path]:
    """Returns the photographs that training may see; none where it asks for none.

    Raises:
        ConfigError: there are no more than are held out.
    """
    face = config.face
    used = face.photo_share or (face.cascade_noise and face.trains_cascade)
    if face.photographs is None or not used:
        return []
    paths = sorted(p for p in Path(face.photographs).rglob("*") if p.suffix.lower() in _PICTURES)
    if len(paths) <= face.held_out_photographs:
        raise ConfigError(
            f"face.photographs {face.photographs} holds {len(paths)} photographs, expected more than "
            f"held_out_photographs = {face.held_out_photographs}"
        )
    return paths[face.held_out_photographs :]


def sample_folder(config: TrainRegressorConfig, part: str) -> tuple[Path, bool]:
    """Returns the folder of prepared samples, and whether they are all there.

    Args:
        config: of the run.
        part: `train`, `validation` or `photographs`.
    """
    folder = Path(config.face.cache) / part
    return folder, (folder / _DONE).is_file()


def prepare_samples(config: TrainRegressorConfig) -> None:
    """Prepares what the cache lacks: samples of the synthetic faces and of the photographs.

    Raises:
        ConfigError: there are no synthetic faces, or no photographs where some are asked for.
    """
    face = config.face
    for part, source in (("train", face.synthetic), ("validation", face.validation)):
        folder, done = sample_folder(config, part)
        if not done:
            faces = SyntheticDataset(source)
            pictures = ((synthetic_pictures(group), group.seeds.tolist()) for group in faces.batches(_TOGETHER))
            _prepare(pictures, len(faces), f"faces of {source}", folder, config)
    folder, done = sample_folder(config, "photographs")
    chosen = [] if done else training_photographs(config)
    if chosen:
        _prepare(photographs(chosen, _TOGETHER), len(chosen), "photographs", folder, config)


def _prepare(groups: Iterator[Group], total: int, what: str, folder: Path, config: TrainRegressorConfig) -> None:
    """Writes the samples of groups of pictures, made side by side on all CPUs; goes on where a killed run stopped."""
    _, done = written_samples(folder)
    actor = ray.remote(num_cpus=0.8)(_Preparer)
    workers = [actor.remote() for _ in range(max(1, int(ray.cluster_resources().get("CPU", 1))))]

    def made() -> Iterator[dict[str, np.ndarray]]:
        waiting: deque[Any] = deque()
        shown = watched(groups, f"{what}: prepared", total, size=_count)
        for number, group in enumerate(islice(shown, done, None), done):
            if len(waiting) == 2 * len(workers):
                yield ray.get(waiting.popleft())
            waiting.append(workers[number % len(workers)].make.remote(*group, (config.seed, number)))
        while waiting:
            yield ray.get(waiting.popleft())

    count = write_samples(made(), load_prior(), folder)
    print(f"{count} of {total} {what} prepared in {folder}", flush=True)
    (folder / _DONE).touch()


class _Preparer:
    """Makes samples in a process of its own."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._maker = SampleMaker(load_prior())

    def make(
        self, pictures: Sequence[LabelledFace], groups: Sequence[int], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns what the `SampleMaker` does."""
        return self._maker(pictures, groups, seed)


def _count(group: Group) -> int:
    return len(group[0])


def _new_task(config: TrainRegressorConfig, data: None, worker: Worker) -> RegressorTask:
    return RegressorTask(config, worker)


def _write_results(config: TrainRegressorConfig, trained: Trained[RegressorTask]) -> None:
    """Writes the best epoch's weights, some meshes, the curves and the record of the run."""
    out, task, network = Path(config.out), trained.task, trained.state.average
    weights = out / "meshnet.safetensors"
    set_uncertainty(network, task.corrector, task.samples, task.held_out, task.precision)
    save_weights(network, config.face.architecture, task.corrector, weights)
    faces = task.estimated(network, _MESHES)
    for number, (verts, albedo) in enumerate(zip(faces.verts_mm, faces.albedo, strict=True)):
        write_mesh(out / f"face_{number}", verts, task.corrector.model.faces, linear_to_srgb(albedo))
    trained.write_record(config, "train_meshnet", weights_sha256=sha256(weights))
    columns = trained.columns()
    panels = {"training loss": {"loss": columns["loss"]}}
    for figure in ("vertex_mm", "plane_mm", "normal_deg", "pose_deg"):
        panels[figure] = {name: columns[f"{name}_{figure}"] for name in ("val", "cascade", "fit", "mean")}
    (out / "curves.svg").write_text(draw_curves(columns["epoch"], panels))


def run_face_training(config: TrainRegressorConfig) -> Path:
    """Trains, or goes on with the run of the same name, and returns the folder of the results.

    Raises:
        ConfigError: data, weights or checkpoints are not what the configuration says.
        StorageError: checkpoints cannot be written any more.
    """
    config = checked(config)
    check_storage(config)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    join_ray(worker_output=True)
    prepare_samples(config)
    _write_results(config, run_trainer(_new_task, None, config))
    return Path(config.out)
