"""Any `loop.Task` on Ray Train: data parallel workers, checkpoints in any storage, resume by name, records.

The loop itself knows nothing of this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow.fs
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raylib.config import SegmentationData, TrainRun
from raylib.errors import ConfigError, RaylibError, StorageError
from raylib.runtime.provenance import environment
from raylib.runtime.ray_cluster import join_ray
from raylib.training.loop import Task, TrainState, Worker, begin, load_checkpoint, train

C = TypeVar("C", bound=TrainRun)
T = TypeVar("T", bound=Task[Any])
NewTask = Callable[[C, Any, Worker], T]
"""Makes a worker's task of the configuration and the data that all workers share."""

_CHECKPOINT = "state.pt"
_SPARE_BYTES = 1 << 18
"""Room that must remain after a checkpoint: Ray writes its list of checkpoints last, and a full disk truncates it."""


def _from_storage(checkpoint: ray.train.Checkpoint, state: TrainState) -> None:
    """Puts the state back to what a checkpoint holds, fetched from its storage first."""
    with checkpoint.as_directory() as folder:
        load_checkpoint(state, Path(folder) / _CHECKPOINT)


def _report(device: torch.device, row: dict[str, float], save: Callable[[Path], None]) -> str | None:
    """Hands figures and the first worker's checkpoint to Ray; every worker must call it equally often.

    Args:
        device: of the worker.
        row: the figures.
        save: writes the checkpoint to a file; only the first worker calls it.

    Returns:
        None, or why the checkpoint could not be kept, on every worker: returned from the training function it ends
        the run without trying again what a full disk will refuse again. Earlier checkpoints stay as they are.
    """
    refused = None
    if ray.train.get_context().get_world_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            try:
                save(Path(folder) / _CHECKPOINT)
            except (OSError, RuntimeError) as error:  # torch.save says RuntimeError for a full disk
                refused = " ".join(str(error).split())
                ray.train.report(row)  # the other workers wait for this one
            else:
                refused = _report_checkpoint(row, folder)
    else:
        ray.train.report(row)
    if torch.distributed.is_initialized():
        flag = torch.tensor(float(refused is not None), device=device)
        torch.distributed.all_reduce(flag)
        return refused or ("another worker could not write the checkpoint" if flag > 0 else None)
    return refused


def _report_checkpoint(row: dict[str, float], folder: str) -> str | None:
    try:
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(row, checkpoint=checkpoint, checkpoint_upload_fn=_upload)
    except OSError as error:
        return " ".join(str(error).split())
    return None


def _upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Copies a checkpoint to the storage whole or not at all, and leaves room for Ray's list of checkpoints."""
    storage = ray.train.get_context().get_storage()
    filesystem = storage.storage_filesystem
    probe = f"{storage.experiment_fs_path}/.room"
    try:
        kept: ray.train.Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
        _write(filesystem, probe, _SPARE_BYTES)
    except Exception:
        for remove, path in (
            (filesystem.delete_file, probe),
            (filesystem.delete_dir, storage.build_checkpoint_path_from_name(name)),
        ):
            with contextlib.suppress(OSError):
                remove(path)
        raise
    filesystem.delete_file(probe)
    return kept


def _write(filesystem: pyarrow.fs.FileSystem, path: str, size: int) -> None:
    with filesystem.open_output_stream(path) as file:
        file.write(bytes(size))


def absolute(path: str | None) -> str | None:
    """Returns a local path that holds in workers too, whose folder is another; addresses and None as they are."""
    return path if path is None or "://" in path else str(Path(path).resolve())


def absolute_data(data: SegmentationData) -> SegmentationData:
    """The folders of labelled photographs as absolute paths."""
    fasseg, celebamask, helen = (absolute(folder) for folder in (data.fasseg, data.celebamask, data.helen))
    return replace(data, fasseg=fasseg, celebamask=celebamask, helen=helen)


def absolute_run(config: C) -> C:
    """Returns the configuration with absolute local paths for the results and the storage."""
    return replace(config, out=str(absolute(config.out)), storage_path=str(absolute(config.storage_path)))


def check_storage(run: TrainRun) -> None:
    """Writes and removes a file where the checkpoints will go.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(run.storage_path)
        filesystem.create_dir(f"{path}/{run.name}")
        _write(filesystem, f"{path}/{run.name}/.room", _SPARE_BYTES)
        filesystem.delete_file(f"{path}/{run.name}/.room")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"storage_path {run.storage_path!r} cannot be written: {reason}") from error


def _train_worker(args: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs: its share of the data, all epochs, from the last checkpoint on.

    Returns:
        Why it ended early, None after the last epoch.
    """
    run: TrainRun = args["run"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    torch.set_num_threads(run.threads_per_worker)
    task = args["new_task"](run, args["data"], worker)
    state = begin(task, run.seed, device)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        _from_storage(checkpoint, state)
    state.model = ray.train.torch.prepare_model(state.model)
    return train(task, state, worker, Path(run.out), partial(_report, device))


@dataclass(frozen=True)
class Trained(Generic[T]):
    """A finished training.

    Attributes:
        task: what was learned, on the CPU, with all of the data.
        state: of the best epoch; the last row of its history has the figures.
        history: of all epochs.
    """

    task: T
    state: TrainState
    history: list[dict[str, float]]

    def columns(self) -> dict[str, list[float]]:
        """The history by figure."""
        return {key: [row[key] for row in self.history] for key in self.history[0]}

    def write_record(self, run: TrainRun, job: str, **facts: object) -> None:
        """Writes history.json, and run.json with configuration, best figures, versions and further facts."""
        out = Path(run.out)
        (out / "history.json").write_text(json.dumps(self.history, indent=1))
        record = {"job": job, "config": asdict(run), "best": self.state.history[-1]} | facts
        (out / "run.json").write_text(json.dumps(record | environment(("torch", "ray")), indent=1))


def _trainer(new_task: NewTask[C, T], data: Any, run: C, task: T) -> TorchTrainer:
    shared_gpu = run.use_gpu and run.gpus_per_worker < 1
    resources = {"CPU": run.cpus_per_worker} | ({"GPU": run.gpus_per_worker} if run.use_gpu else {})
    order = "max" if task.higher_is_better else "min"
    return TorchTrainer(
        _train_worker,
        train_loop_config={"run": run, "data": data, "new_task": new_task},
        torch_config=TorchConfig(backend="nccl" if run.use_gpu and not shared_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=run.num_workers, use_gpu=run.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage_path,
            logging_config=LoggingConfig(log_level="WARNING"),  # what matters, the workers print
            failure_config=FailureConfig(max_failures=run.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=run.keep_checkpoints, checkpoint_score_attribute=task.score, checkpoint_score_order=order
            ),
        ),
    )


def _fitted(trainer: TorchTrainer) -> ray.train.Result:
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause: BaseException | None = failure
            while cause is not None and not isinstance(cause, RaylibError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if cause is not None:
                raise cause from error
        raise


def run_trainer(new_task: NewTask[C, T], data: Any, run: C) -> Trained[T]:
    """Trains on the Ray cluster of the environment, or on one started here; the same name goes on where it stopped.

    Args:
        new_task: makes every worker's task, and the one that is returned.
        data: its second argument.
        run: workers, devices, storage; made by `absolute_run`.

    Raises:
        ConfigError: the storage cannot be written at the start, or the name belongs to a run without checkpoints.
        StorageError: it cannot be written any more; the last good checkpoint is there, and the same command goes on.
        RaylibError: a worker raised it.
    """
    check_storage(run)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # which shows every line of progress twice
    join_ray(worker_output=True)
    task = new_task(run, data, Worker())
    result = _fitted(_trainer(new_task, data, run, task))
    if result.return_value is not None:
        raise StorageError(
            f"checkpoint of run {run.name!r} cannot be written to {run.storage_path!r}: {result.return_value}; "
            "earlier checkpoints are kept, and the same command goes on from the last one"
        )
    if result.checkpoint is None:
        raise ConfigError(f"run {run.name!r} in {run.storage_path!r} has no checkpoint; give it another name")
    state = begin(task, run.seed, torch.device("cpu"))
    _from_storage(result.checkpoint, state)
    history = state.history
    _from_storage(result.get_best_checkpoint(task.score, "max" if task.higher_is_better else "min"), state)
    return Trained(task, state, history)
