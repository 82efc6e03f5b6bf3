"""Settings that every training on Ray Train shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raylib.config.checks import require
from raylib.config.paths import path_field


@dataclass(frozen=True)
class TrainRun:
    """Where a training runs, on what, and what it keeps; the jobs' own configurations extend it.

    Attributes:
        name: of the run; the same name in the same storage resumes it.
        storage_path: folder or s3:// address for checkpoints.
        out: local folder for the results; on a cluster one that the first worker and the driver share.
        num_workers: number of Ray Train workers.
        use_gpu: GPUs (NCCL) instead of processor cores (gloo).
        gpus_per_worker: GPUs that a worker reserves where `use_gpu`; a half puts two workers on one GPU, and then
            they talk by gloo, since NCCL refuses two workers on a device.
        cpus_per_worker: logical cores that a worker reserves; below one leaves room for Ray's own tasks.
        threads_per_worker: processor threads of a worker's network and renderer.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that has it and on a CPU with AMX.
        max_failures: how often a worker may die before the run fails; it goes on from the last checkpoint.
        keep_checkpoints: number of checkpoints that are kept; the best and the last are always among them.
        seed: whole number from which everything random follows.
    """

    name: str
    storage_path: str = field(metadata=path_field(output=True))
    out: str = field(metadata=path_field(output=True))
    num_workers: int = 1
    use_gpu: bool = False
    gpus_per_worker: float = 1.0
    cpus_per_worker: float = 0.5
    threads_per_worker: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_failures: int = 3
    keep_checkpoints: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.name) and "/" not in self.name, "name", self.name, "a word without a slash")
        for name in ("num_workers", "threads_per_worker", "keep_checkpoints"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_failures >= 0, "max_failures", self.max_failures, "at least 0")
        require(self.cpus_per_worker > 0, "cpus_per_worker", self.cpus_per_worker, "a positive number")
        share = self.gpus_per_worker
        require(0 < share <= 1 or share == int(share), "gpus_per_worker", share, "a share up to 1, or a whole number")
