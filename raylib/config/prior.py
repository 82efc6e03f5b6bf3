"""Settings of `jobs/build_prior.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from raylib.config.checks import require
from raylib.config.paths import path_field


@dataclass(frozen=True)
class BuildPriorConfig:
    """Deriving the shipped face prior from ICT-FaceKit.

    Attributes:
        ict: ICT-FaceKit as an array file (.npz).
        licence: the licence file that came with it; its text is kept in the output.
        output: safetensors file to write.
        head_output: safetensors file for the rest of the head, which the synthetic faces put around the prior.
        people: number of held-out faces on which the prior's error is measured.
        seed: whole number from which the held-out faces follow.
    """

    ict: str = field(metadata=path_field())
    licence: str = field(metadata=path_field())
    output: str = field(default="raylib/weights/face_prior.safetensors", metadata=path_field(output=True))
    head_output: str = field(default="raylib/weights/head.safetensors", metadata=path_field(output=True))
    people: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.people >= 1, "people", self.people, "at least one")
