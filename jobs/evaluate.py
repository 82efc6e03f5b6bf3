"""Measures what the project makes: `python jobs/evaluate.py segmentation --out DIR --data.fasseg DIR`."""

from __future__ import annotations

from raylib.cli import main_with_commands
from raylib.config import EvaluateSegmentationConfig


def segmentation(config: EvaluateSegmentationConfig) -> int:
    """Prints and writes how well label maps agree with labelled photographs."""
    from raylib.training.unet_evaluation import markdown, run_evaluation

    print(markdown(run_evaluation(config)))
    return 0


if __name__ == "__main__":
    main_with_commands(
        {"segmentation": (segmentation, EvaluateSegmentationConfig, "face segmentation against labelled photographs")}
    )
