"""What every training on Ray Train shares: the trainer, progress, checkpoints in any storage, and their errors.

The training step itself is a plain function that knows nothing of this module.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow.fs
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from raylib.config import TrainRun
from raylib.errors import ConfigError, RaylibError, StorageError
from raylib.progress import QUIET_S
from raylib.ray_cluster import join_ray

C = TypeVar("C", bound=TrainRun)

_CHECKPOINT = "state.pt"
_SPARE_BYTES = 1 << 18
"""Room that must remain after a checkpoint: Ray writes its list of checkpoints last, and a full disk truncates it."""


class Progress:
    """Prints how far a training is and how long it will take, at most every `pause` seconds.

    Args:
        epochs_done: where this process began.
        epochs: of the whole training.
        pause: seconds between two lines.
    """

    def __init__(self, epochs_done: float, epochs: int, pause: float = 30.0):
        self._start, self._first, self._epochs, self._pause = time.monotonic(), epochs_done, epochs, pause
        self._last = self._start - pause + QUIET_S  # the first line comes soon

    def __call__(self, epochs_done: float, text: str, always: bool = False) -> None:
        """Prints a line if it is time for one, or `always`."""
        now = time.monotonic()
        if not always and now - self._last < self._pause:
            return
        self._last = now
        done = max(epochs_done - self._first, 1e-6)
        left = (now - self._start) / done * (self._epochs - epochs_done)
        clock = f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
        print(f"epoch {epochs_done:.1f} of {self._epochs}, {clock} left: {text}", flush=True)


def mean_over_workers(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Returns the means over all workers; every worker must call it with the same names."""
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total /= torch.distributed.get_world_size()
    return dict(zip(values, total.tolist(), strict=True))


def resume(load: Callable[[Path], None]) -> None:
    """Calls `load` with the file of the run's last checkpoint, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        from_storage(checkpoint, load)


def from_storage(checkpoint: ray.train.Checkpoint, load: Callable[[Path], None]) -> None:
    """Calls `load` with the file of a checkpoint, fetched from its storage first."""
    with checkpoint.as_directory() as folder:
        load(Path(folder) / _CHECKPOINT)


def report(row: dict[str, float], save: Callable[[Path], None], device: torch.device) -> str | None:
    """Hands figures and the first worker's checkpoint to Ray; every worker must call it equally often.

    Args:
        row: the figures.
        save: writes the checkpoint to a file; only the first worker calls it.
        device: of the worker.

    Returns:
        None, or why the checkpoint could not be kept, on every worker: return it from the training function, which
        ends the run without trying again what a full disk will refuse again. Earlier checkpoints stay as they are.
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


def run_trainer(
    worker: Callable[[dict[str, Any]], str | None],
    args: dict[str, Any],
    run: TrainRun,
    score: str,
    order: Literal["max", "min"],
) -> ray.train.Result:
    """Trains on the Ray cluster of the environment, or on one started here; the same name goes on where it stopped.

    Args:
        worker: what every worker runs; returns what `report` returned when that was not None.
        args: its argument.
        run: workers, devices, storage; made by `absolute_run`.
        score: figure of the reported rows that tells good checkpoints from bad ones.
        order: whether much or little of it is good.

    Raises:
        ConfigError: the storage cannot be written at the start, or the name belongs to a run without checkpoints.
        StorageError: it cannot be written any more; the last good checkpoint is there, and the same command goes on.
        RaylibError: a worker raised it.
    """
    check_storage(run)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # which shows every line of progress twice
    join_ray(worker_output=True)
    shared_gpu = run.use_gpu and run.gpus_per_worker < 1
    resources = {"CPU": run.cpus_per_worker} | ({"GPU": run.gpus_per_worker} if run.use_gpu else {})
    trainer = TorchTrainer(
        worker,
        train_loop_config=args,
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
                num_to_keep=run.keep_checkpoints, checkpoint_score_attribute=score, checkpoint_score_order=order
            ),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause: BaseException | None = failure
            while cause is not None and not isinstance(cause, RaylibError):
                cause = getattr(cause, "cause", None) or cause.__cause__
            if cause is not None:
                raise cause from error
        raise
    if result.return_value is not None:
        raise StorageError(
            f"checkpoint of run {run.name!r} cannot be written to {run.storage_path!r}: {result.return_value}; "
            "earlier checkpoints are kept, and the same command goes on from the last one"
        )
    if result.checkpoint is None:
        raise ConfigError(f"run {run.name!r} in {run.storage_path!r} has no checkpoint; give it another name")
    return result
