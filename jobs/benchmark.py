"""Measures: `python jobs/benchmark.py render` (then pictures, yale_b), each with its own options; see `--help`."""

from __future__ import annotations

import sys
from importlib import import_module

from raylib.cli import main
from raylib.config import (
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkYaleBConfig,
)

BENCHMARKS = {
    "reconstruct": BenchmarkReconstructConfig,
    "render": BenchmarkRenderConfig,
    "pictures": BenchmarkPicturesConfig,
    "yale_b": BenchmarkYaleBConfig,
}
"""What can be measured: the module of this name in raylib.benchmark runs it with this configuration."""


def start() -> None:
    """Runs the benchmark that the first word names; its module is imported after its options have been read."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else ""
    if name not in BENCHMARKS:
        sys.exit(f"{sys.argv[0]}: error: the first word is {name!r}, expected one of {', '.join(BENCHMARKS)}")
    config_class = BENCHMARKS[name]
    main(
        lambda config: import_module(f"raylib.benchmark.{name}").run(config), config_class, config_class.__doc__ or ""
    )


if __name__ == "__main__":
    start()
