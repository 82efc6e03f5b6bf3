"""Training the network that corrects landmark fits on Ray Train: the step itself is `face_meshnet_loop`'s."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from jaxtyping import Int
from torch.utils.tensorboard import SummaryWriter

from raylib.color import linear_to_srgb
from raylib.config import TrainMeshnetConfig
from raylib.datasets.synthetic import SyntheticDataset
from raylib.errors import ConfigError
from raylib.face_network import build_network, load_weights, save_weights
from raylib.fit_cascade import FitCascade
from raylib.fit_correction import FitCorrector
from raylib.morphable import LinearFaceModel, load_prior
from raylib.networks.face_meshnet import FaceMeshNet
from raylib.progress import watched
from raylib.provenance import environment, sha256
from raylib.ray_cluster import join_ray
from raylib.training.curves import draw_curves
from raylib.training.face_augmentation import FaceAugmentation
from raylib.training.face_cascade import strangeness, train_cascade
from raylib.training.face_meshnet_loop import (
    batches,
    estimate_samples,
    learning_rate,
    load_checkpoint,
    new_state,
    save_checkpoint,
    to_device,
    train_step,
    validate,
)
from raylib.training.face_meshnet_loss import FaceLoss, vertex_weights
from raylib.training.face_pictures import drawn_faces, photographs, synthetic_pictures
from raylib.training.face_samples import FaceSamples, Picture, SampleMaker, write_samples, written_samples
from raylib.training.meshnet_results import write_mesh
from raylib.training.precision import resolve_precision
from raylib.training.ray_run import (
    Progress,
    absolute,
    absolute_run,
    check_storage,
    from_storage,
    mean_over_workers,
    report,
    resume,
    run_trainer,
)
from raylib.training.strips import row_of, strip_index, write_originals, write_strip
from raylib.training.uncertainty import set_uncertainty

SCORE = "val_vertex_mm"
"""Figure of the validation by which checkpoints are kept; small is good."""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_CASCADE_SAMPLES = 20_000
_USUAL_SAMPLES = 4_000  # of them, to tell what is usual
_TOGETHER = 16  # pictures that are prepared together
_DONE = "done"
_MESHES = 4  # faces whose meshes are written

Group = tuple[Sequence[Picture], Sequence[int]]
"""Pictures that are prepared together, and a number for each."""


def checked(config: TrainMeshnetConfig) -> TrainMeshnetConfig:
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


def _synthetic_per_step(config: TrainMeshnetConfig) -> int:
    return config.images_per_worker - round(config.images_per_worker * config.face.photo_share)


def steps_per_epoch(config: TrainMeshnetConfig, num_samples: int, num_workers: int) -> int:
    """Returns the optimiser steps of an epoch over so many synthetic faces."""
    return config.steps_per_epoch or max(1, num_samples // (_synthetic_per_step(config) * num_workers))


def training_photographs(config: TrainMeshnetConfig) -> list[Path]:
    """Returns the photographs that training may see; none where it asks for none.

    Raises:
        ConfigError: there are no more than are held out.
    """
    face = config.face
    used = face.photo_share or (face.cascade_noise and _trains_cascade(config))
    if face.photographs is None or not used:
        return []
    paths = sorted(p for p in Path(face.photographs).rglob("*") if p.suffix.lower() in _PICTURES)
    if len(paths) <= face.held_out_photographs:
        raise ConfigError(
            f"face.photographs {face.photographs} holds {len(paths)} photographs, expected more than "
            f"held_out_photographs = {face.held_out_photographs}"
        )
    return paths[face.held_out_photographs :]


def _trains_cascade(config: TrainMeshnetConfig) -> bool:
    return config.face.init_weights is None or config.face.teach_cascade


def sample_folder(config: TrainMeshnetConfig, part: str) -> tuple[Path, bool]:
    """Returns the folder of prepared samples, and whether they are all there.

    Args:
        config: of the run.
        part: `train`, `validation` or `photographs`.
    """
    folder = Path(config.face.cache) / part
    return folder, (folder / _DONE).is_file()


def prepare_samples(config: TrainMeshnetConfig) -> None:
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


def _prepare(groups: Iterator[Group], total: int, what: str, folder: Path, config: TrainMeshnetConfig) -> None:
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
        self, pictures: Sequence[Picture], groups: Sequence[int], seed: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Returns what the `SampleMaker` does."""
        return self._maker(pictures, groups, seed)


def _count(group: Group) -> int:
    return len(group[0])


def start(config: TrainMeshnetConfig) -> tuple[FaceMeshNet, FitCorrector]:
    """Returns the network before the first step, and the corrector that goes with it.

    Where the cascade is trained, it is trained once: all workers read it from the cache.
    """
    model, face = load_prior(), config.face
    noise = face.cascade_noise if face.photographs else 0.0
    name, known = f"cascade_{noise:g}", None
    if face.init_weights:
        network, known = load_weights(Path(face.init_weights), model)
        name += f"_on_{sha256(Path(face.init_weights))[:12]}"
        if not face.teach_cascade:
            return network.train(), known
    else:
        torch.manual_seed(config.seed)
        network = build_network(model, face.architecture)
    path = Path(face.cache) / f"{name}.safetensors"
    if not path.is_file():
        corrector = _with_trained_cascade(config, model, known, noise)
        partial_path = path.with_suffix(".partial")
        save_weights(network, face.architecture, corrector, partial_path)
        partial_path.replace(path)
    return network.train(), load_weights(path, model)[1]


def _with_trained_cascade(
    config: TrainMeshnetConfig, model: LinearFaceModel, known: FitCorrector | None, noise: float
) -> FitCorrector:
    """Returns a new corrector, or the known one, whose cascade the samples taught."""
    face = config.face
    samples = FaceSamples(Path(face.cache) / "train", model)
    index = np.arange(min(len(samples), _CASCADE_SAMPLES))
    photos = FaceSamples(Path(face.cache) / "photographs", model) if noise else None
    if known is None:
        corrector = FitCorrector(model, samples.mean_albedo(), FitCascade.empty(model))
        former, count, closing = None, face.cascade_steps, int(photos is not None)
    else:
        corrector, former = known, known.cascade.then(known.closing)
        count, closing = len(known.cascade.weights), len(known.closing.weights)
    ridges = [face.cascade_ridge] * count + [face.closing_ridge] * closing
    steps = train_cascade(model, samples, index, ridges, config.seed, photos, noise, former)
    corrector.cascade, corrector.closing = steps[:count], steps[count:]
    if photos is not None:
        some = index[:_USUAL_SAMPLES]
        corrector.strangeness = strangeness(model, corrector.cascade, samples, some, photos, noise)
    return corrector


def train_worker(args: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs: its share of the faces, all epochs, from the last checkpoint on.

    Args:
        args: `config`, the TrainMeshnetConfig.

    Returns:
        Why it ended early, None after the last epoch.
    """
    config: TrainMeshnetConfig = args["config"]
    face = config.face
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.threads_per_worker)
    device = ray.train.torch.get_device()
    precision = resolve_precision(config.precision, device)
    model = load_prior()
    samples = FaceSamples(Path(face.cache) / "train", model)
    held_out = FaceSamples(Path(face.cache) / "validation", model)
    photos = FaceSamples(Path(face.cache) / "photographs", model) if face.photo_share else None

    network, corrector = start(config)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    first_stage = build_network(model, face.architecture).to(device).eval() if face.init_weights else None
    if first_stage is not None:
        first_stage.load_state_dict(network.state_dict())
    state = new_state(network, face.weight_decay)
    resume(partial(load_checkpoint, state))
    state.model = ray.train.torch.prepare_model(network)
    corrector = corrector.to(device)
    loss = FaceLoss(corrector, face.loss, config.image_px)
    augment = FaceAugmentation(model)
    weights = vertex_weights(model).to(device)

    photo_index: Int[np.ndarray, " n"] = np.arange(rank, 0 if photos is None else len(photos), world)
    per_step = _synthetic_per_step(config)
    steps = steps_per_epoch(config, len(samples), world)
    board = SummaryWriter(str(Path(config.out) / "tensorboard"), purge_step=state.epoch) if rank == 0 else None
    shown = to_device(held_out.batch(strip_index(len(held_out))), device)
    if rank == 0:
        write_originals(Path(config.out), row_of(shown.images.cpu().numpy()))
    progress = Progress(state.epoch, config.epochs)
    began, taken, sums = time.monotonic(), 0, dict[str, float]()
    while state.epoch < config.epochs:
        # As many samples on every worker, so that all take the same number of steps.
        chosen = np.random.default_rng((config.seed, state.epoch)).permutation(len(samples))
        chosen = np.resize(chosen, steps * per_step * world)[rank::world]
        seed = (config.seed, state.epoch, rank)
        for number, (batch, lit) in enumerate(
            batches(samples, chosen, photos, photo_index, config.images_per_worker, face.photo_share, augment, seed)
        ):
            rate = learning_rate(state.step, steps * config.epochs, face.warmup_steps, config.learning_rate)
            terms = train_step(
                state,
                corrector,
                loss,
                to_device(batch, device),
                lit.to(device),
                rate,
                face.ema_decay,
                precision,
                first_stage,
            )
            taken += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            if rank == 0:
                progress(state.epoch + (number + 1) / steps, f"loss {terms['loss']:.3f}")
        state.epoch += 1
        if state.epoch % config.checkpoint_epochs and state.epoch < config.epochs:
            continue
        speed = taken * config.images_per_worker * world / (time.monotonic() - began)
        row = {"epoch": float(state.epoch), "rate": rate, "images_per_second": speed}
        row |= mean_over_workers({name: value / taken for name, value in sums.items()}, device)
        index = np.arange(rank, len(held_out), world)
        figures = validate(
            state.average, corrector, held_out, index, weights, config.images_per_worker, device, precision
        )
        row |= mean_over_workers(figures, device)
        state.history.append(row)
        if board is not None:
            for key, value in row.items():
                board.add_scalar(key, value, state.epoch)
            if state.epoch % config.strip_epochs < config.checkpoint_epochs or state.epoch == config.epochs:
                estimate = estimate_samples(state.average, corrector, shown, precision)
                strip = drawn_faces(loss, estimate)
                write_strip(Path(config.out), state.epoch, strip)
                board.add_image("strip", strip, state.epoch, dataformats="HWC")
            board.flush()
            progress(state.epoch, ", ".join(f"{k} {v:.3f}" for k, v in row.items() if "_mm" in k), always=True)
        refused = report(row, partial(save_checkpoint, state), device)
        if refused is not None:
            return refused
        sums.clear()
        began, taken = time.monotonic(), 0
    return None


def _write_results(config: TrainMeshnetConfig, result: ray.train.Result) -> None:
    """Writes the best epoch's weights, the curves and the record of the run."""
    out, model = Path(config.out), load_prior()
    state = new_state(build_network(model, config.face.architecture), config.face.weight_decay)
    from_storage(result.checkpoint, partial(load_checkpoint, state))
    history = state.history
    best = result.get_best_checkpoint(SCORE, "min")
    from_storage(best, partial(load_checkpoint, state))
    weights = out / "meshnet.safetensors"
    corrector = start(config)[1]
    held_out = FaceSamples(Path(config.face.cache) / "validation", model)
    precision = resolve_precision(config.precision, torch.device("cpu"))
    set_uncertainty(
        state.average, corrector, FaceSamples(Path(config.face.cache) / "train", model), held_out, precision
    )
    save_weights(state.average, config.face.architecture, corrector, weights)
    some = held_out.batch(np.unique(strip_index(len(held_out)))[:_MESHES])
    faces = estimate_samples(state.average, corrector, some, precision)
    for number, (verts, albedo) in enumerate(zip(faces.verts_mm, faces.albedo, strict=True)):
        write_mesh(out / f"face_{number}", verts, model.faces, linear_to_srgb(albedo))
    (out / "history.json").write_text(json.dumps(history, indent=1))
    record = {"job": "train_meshnet", "config": asdict(config), "best": state.history[-1]}
    record["weights_sha256"] = sha256(weights)
    (out / "run.json").write_text(json.dumps(record | environment(("torch", "ray")), indent=1))
    columns = {key: [row[key] for row in history] for key in history[0]}
    panels = {"training loss": {"loss": columns["loss"]}}
    for figure in ("vertex_mm", "plane_mm", "normal_deg", "pose_deg"):
        panels[figure] = {name: columns[f"{name}_{figure}"] for name in ("val", "cascade", "fit", "mean")}
    (out / "curves.svg").write_text(draw_curves(columns["epoch"], panels))


def run_face_training(config: TrainMeshnetConfig) -> Path:
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
    start(config)
    _write_results(config, run_trainer(train_worker, {"config": config}, config, SCORE, "min"))
    return Path(config.out)
