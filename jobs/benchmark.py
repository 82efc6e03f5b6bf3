"""Measures speed, memory and agreement: `jobs/benchmark.py COMMAND`; each command has its own --help."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from raylib.config import (
    BenchmarkBucketConfig,
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkStagesConfig,
    BenchmarkTrainConfig,
    BenchmarkYaleBConfig,
)
from raylib.runtime.command import Command, main_with_commands


def runner(name: str) -> Callable[[Any], int]:
    """Returns the function that runs a benchmark; its module is imported after the options have been read."""
    return lambda config: int(import_module(f"raylib.benchmark.{name}").run(config))


def planner(name: str) -> Callable[[Any], None]:
    """Returns the function that says what a benchmark would do."""
    return lambda config: print("\n".join(import_module(f"raylib.benchmark.{name}").plan(config)))


BENCHMARKS = {
    "bucket": (
        BenchmarkBucketConfig,
        "the driver's memory over a bucket of very many images",
        "--images 20000 --work out/bucket",
    ),
    "reconstruct": (
        BenchmarkReconstructConfig,
        "the reconstruction job against a plain loop: time and memory",
        "--images 60 --rounds 1 --work out/timing",
    ),
    "render": (BenchmarkRenderConfig, "our renderer against PyTorch3D", "--sizes '[64, 128]' --rounds 3"),
    "train": (
        BenchmarkTrainConfig,
        "a training step of MeshNet against the same step on PyTorch3D",
        "--images '[1]' --rounds 1",
    ),
    "stages": (
        BenchmarkStagesConfig,
        "the stages of the paper's loss, from finished trainings",
        "--runs '[out/mse, out/paper]' --picture out/stages.png",
    ),
    "pictures": (
        BenchmarkPicturesConfig,
        "pictures of the renderer beside PyTorch3D, and of self-shadow",
        "--output out/pictures --size 128",
    ),
    "yale_b": (
        BenchmarkYaleBConfig,
        "relighting of real faces with and without self-shadow",
        "--data yale_b --picture out/yale_b.png",
    ),
}
"""What can be measured, by the name of its module in raylib.benchmark: configuration, description, an example."""

COMMANDS: dict[str, Command[Any]] = {
    name: Command(
        runner(name),
        config_class,
        f"{what}\n\nExamples:\n    python jobs/benchmark.py {name} {words}\n"
        f"    python jobs/benchmark.py {name} {words} --dry-run\n",
        planner(name),
    )
    for name, (config_class, what, words) in BENCHMARKS.items()
}

if __name__ == "__main__":
    main_with_commands(COMMANDS, ["python jobs/benchmark.py render --sizes '[64, 128]' --rounds 3"])
