"""Measures: `python jobs/benchmark.py render`, and others; without a command it lists them, each has its `--help`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from raylib.cli import main_with_commands
from raylib.config import (
    BenchmarkBucketConfig,
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkStagesConfig,
    BenchmarkTrainConfig,
    BenchmarkYaleBConfig,
)

BENCHMARKS = {
    "bucket": (BenchmarkBucketConfig, "the driver's memory over a bucket of very many images"),
    "reconstruct": (
        BenchmarkReconstructConfig,
        "the reconstruction job against a plain loop: time and memory",
    ),
    "render": (BenchmarkRenderConfig, "our renderer against PyTorch3D"),
    "train": (BenchmarkTrainConfig, "a training step of MeshNet against the same step on PyTorch3D"),
    "stages": (BenchmarkStagesConfig, "the stages of the paper's loss, from finished trainings"),
    "pictures": (BenchmarkPicturesConfig, "pictures of the renderer beside PyTorch3D, and of self-shadow"),
    "yale_b": (BenchmarkYaleBConfig, "relighting of real faces with and without self-shadow"),
}
"""What can be measured: configuration and description of the module of this name in raylib.benchmark."""


def runner(name: str) -> Callable[[Any], int]:
    """Returns the function that runs a benchmark; its module is imported after the options have been read."""
    return lambda config: int(import_module(f"raylib.benchmark.{name}").run(config))


if __name__ == "__main__":
    main_with_commands({name: (runner(name), *how) for name, how in BENCHMARKS.items()})
