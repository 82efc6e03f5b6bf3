"""Derives the shipped face prior and head from ICT-FaceKit: `jobs/build_prior.py --ict FOLDER --licence FILE`."""

from __future__ import annotations

from pathlib import Path

import torch

from raylib.cli import main
from raylib.config import BuildPriorConfig
from raylib.errors import ConfigError
from raylib.morphable import read_prior
from raylib.wrapping.build import build_prior
from raylib.wrapping.ict import read_head
from raylib.wrapping.surround import build_surround


def run(config: BuildPriorConfig) -> int:
    """Writes the prior and the rest of the head and prints their figures."""
    try:
        notice = Path(config.licence).read_text()
    except OSError as error:
        raise ConfigError(f"licence is {config.licence!r}, expected the source's licence file: {error}") from error
    head = read_head(Path(config.ict))
    torch.set_num_threads(1)  # so that sums, and with them the file, come out the same on every machine
    command = f"jobs/build_prior.py --people {config.people} --seed {config.seed}"
    metadata = build_prior(head, Path(config.output), notice, command, config.people, config.seed)
    print(metadata["figures"])
    print(build_surround(head, read_prior(Path(config.output)), Path(config.head_output), notice, command))
    return 0


if __name__ == "__main__":
    main(run, BuildPriorConfig, __doc__ or "")
