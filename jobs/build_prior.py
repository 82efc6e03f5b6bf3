"""Derives the shipped face prior and head from ICT-FaceKit.

Examples:
    python jobs/build_prior.py --ict ict_facekit.npz --licence LICENSE --output prior.safetensors --dry-run
    python jobs/build_prior.py --ict FaceXModel --licence LICENSE --people 100
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raylib.config import BuildPriorConfig
from raylib.errors import ConfigError
from raylib.runtime.command import Command, main

if TYPE_CHECKING:
    from raylib.morphable.registration.ict import IctHead


def read_sources(config: BuildPriorConfig) -> tuple[str, IctHead]:
    """Returns the licence's text and the source model; a `ConfigError` where they are not there."""
    from raylib.morphable.registration.ict import read_head

    try:
        notice = Path(config.licence).read_text()
    except OSError as error:
        raise ConfigError(f"licence is {config.licence!r}, expected the source's licence file: {error}") from error
    return notice, read_head(Path(config.ict))


def run(config: BuildPriorConfig) -> int:
    """Writes the prior and the rest of the head and prints their figures."""
    import torch

    from raylib.morphable.model import read_prior
    from raylib.morphable.registration.build import build_prior
    from raylib.morphable.registration.surround import build_surround

    notice, head = read_sources(config)
    torch.set_num_threads(1)  # so that sums, and with them the file, come out the same on every machine
    command = f"jobs/build_prior.py --people {config.people} --seed {config.seed}"
    print("wrapping the template around the source", flush=True)
    metadata = build_prior(head, Path(config.output), notice, command, config.people, config.seed)
    print(metadata["figures"], flush=True)
    print("making the rest of the head coarse", flush=True)
    print(build_surround(head, read_prior(Path(config.output)), Path(config.head_output), notice, command))
    return 0


def plan(config: BuildPriorConfig) -> None:
    """Says what a run would do."""
    _, head = read_sources(config)
    modes = f"{len(head.identity)} identity and {len(head.expression)} expression modes"
    print(f"{config.ict}: {len(head.verts)} vertices, {modes}")
    print(f"would wrap them, measure {config.people} held-out faces, and write {config.output}, {config.head_output}")


COMMAND = Command(run, BuildPriorConfig, __doc__ or "", plan)

if __name__ == "__main__":
    main(COMMAND)
