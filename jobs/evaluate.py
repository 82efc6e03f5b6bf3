"""Measures what the project makes.

python jobs/evaluate.py segmentation --out DIR --data.fasseg DIR
python jobs/evaluate.py shape --out DIR --truth DIR --results ours=DIR --baselines all
    python jobs/evaluate.py appearance --out DIR --truth DIR --results ours=DIR
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raylib.cli import main_with_commands
from raylib.config import (
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateSegmentationConfig,
    EvaluateShapeConfig,
)


def segmentation(config: EvaluateSegmentationConfig) -> int:
    """Prints and writes how well label maps agree with labelled photographs."""
    from raylib.training.unet_evaluation import markdown, run_evaluation

    print(markdown(run_evaluation(config)))
    return 0


def shape(config: EvaluateShapeConfig) -> int:
    """Prints and writes how well reconstructed faces agree with known ones."""
    from raylib.evaluation.run_shape import run_shape
    from raylib.evaluation.shape_report import markdown

    print(markdown(run_shape(config)))
    return 0


def appearance(config: EvaluateAppearanceConfig) -> int:
    """Prints and writes how well reconstructed albedo and light agree with known ones."""
    from raylib.evaluation.appearance_report import markdown
    from raylib.evaluation.run_appearance import run_appearance

    print(markdown(run_appearance(config)))
    return 0


def pictures(config: EvaluatePicturesConfig) -> int:
    """Writes the pictures of synthetic faces as files for a reconstruction."""
    from pathlib import Path

    from raylib.evaluation.truth import write_pictures

    print(f"{write_pictures(config.truth, Path(config.out), config.storage_options)} pictures in {config.out}")
    return 0


COMMANDS: dict[str, tuple[Callable[[Any], int], type, str]] = {
    "segmentation": (segmentation, EvaluateSegmentationConfig, "face segmentation against labelled photographs"),
    "shape": (shape, EvaluateShapeConfig, "reconstructed meshes against known faces or scans"),
    "appearance": (appearance, EvaluateAppearanceConfig, "reconstructed albedo and light against known ones"),
    "pictures": (pictures, EvaluatePicturesConfig, "the pictures of synthetic faces as files, to reconstruct them"),
}

if __name__ == "__main__":
    main_with_commands(COMMANDS)
