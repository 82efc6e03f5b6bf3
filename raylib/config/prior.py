"""Settings of `jobs/build_prior.py`."""

from __future__ import annotations

from dataclasses import dataclass

from raylib.config.checks import require


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

    ict: str
    licence: str
    output: str = "raylib/weights/face_prior.safetensors"
    head_output: str = "raylib/weights/head.safetensors"
    people: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.people >= 1, "people", self.people, "at least one")
