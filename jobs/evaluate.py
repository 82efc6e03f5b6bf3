"""Measures what the project makes: `jobs/evaluate.py COMMAND`; each command has its own --help."""

from __future__ import annotations

from typing import Any

from raylib.config import (
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateSegmentationConfig,
    EvaluateShapeConfig,
)
from raylib.runtime.command import Command, main_with_commands


def segmentation(config: EvaluateSegmentationConfig) -> int:
    """Prints and writes how well label maps agree with labelled photographs."""
    from raylib.evaluation.segmentation import markdown, run_evaluation

    print(markdown(run_evaluation(config)))
    return 0


def plan_segmentation(config: EvaluateSegmentationConfig) -> None:
    """Says what `segmentation` would do."""
    from rich.console import Console

    from raylib.evaluation.plan import print_segmentation_plan

    print_segmentation_plan(config, Console())


def shape(config: EvaluateShapeConfig) -> int:
    """Prints and writes how well reconstructed faces agree with known ones."""
    from raylib.evaluation.shape.report import markdown
    from raylib.evaluation.shape.run import run_shape

    print(markdown(run_shape(config)))
    return 0


def plan_shape(config: EvaluateShapeConfig) -> None:
    """Says what `shape` would do."""
    from rich.console import Console

    from raylib.evaluation.plan import print_shape_plan

    print_shape_plan(config, Console())


def appearance(config: EvaluateAppearanceConfig) -> int:
    """Prints and writes how well reconstructed albedo and light agree with known ones."""
    from raylib.evaluation.appearance.report import markdown
    from raylib.evaluation.appearance.run import run_appearance

    print(markdown(run_appearance(config)))
    return 0


def plan_appearance(config: EvaluateAppearanceConfig) -> None:
    """Says what `appearance` would do."""
    from rich.console import Console

    from raylib.evaluation.plan import print_appearance_plan

    print_appearance_plan(config, Console())


def pictures(config: EvaluatePicturesConfig) -> int:
    """Writes the pictures of synthetic faces as files for a reconstruction."""
    from pathlib import Path

    from raylib.evaluation.truth import write_pictures

    print(f"{write_pictures(config.truth, Path(config.out), config.storage_options)} pictures in {config.out}")
    return 0


def plan_pictures(config: EvaluatePicturesConfig) -> None:
    """Says what `pictures` would do."""
    from rich.console import Console

    from raylib.evaluation.plan import print_pictures_plan

    print_pictures_plan(config, Console())


COMMANDS: dict[str, Command[Any]] = {
    "segmentation": Command(
        segmentation,
        EvaluateSegmentationConfig,
        """face segmentation against labelled photographs

Examples:
    python jobs/evaluate.py segmentation --out out/segmentation --data.fasseg fasseg
    python jobs/evaluate.py segmentation --out out/covered --data.celebamask celebamask --occlusion 0.3 --dry-run
""",
        plan_segmentation,
    ),
    "shape": Command(
        shape,
        EvaluateShapeConfig,
        """reconstructed meshes against known faces or scans

Examples:
    python jobs/evaluate.py shape --out out/shape --truth out/synthetic --results ours=out/faces --baselines landmarks
    python jobs/evaluate.py shape --out out/scans --truth scans --results a=out/a b=out/b --dry-run
""",
        plan_shape,
    ),
    "appearance": Command(
        appearance,
        EvaluateAppearanceConfig,
        """reconstructed albedo and light against known ones

Examples:
    python jobs/evaluate.py appearance --out out/appearance --truth out/synthetic --results ours=out/faces
    python jobs/evaluate.py appearance --out out/lpips --truth out/synthetic --results out/faces --lpips torchvision
""",
        plan_appearance,
    ),
    "pictures": Command(
        pictures,
        EvaluatePicturesConfig,
        """the pictures of synthetic faces as files, to reconstruct them

Examples:
    python jobs/evaluate.py pictures --truth out/synthetic --out out/pictures
    python jobs/reconstruct.py --input out/pictures --output out/faces
""",
        plan_pictures,
    ),
}

if __name__ == "__main__":
    main_with_commands(
        COMMANDS, ["python jobs/evaluate.py shape --out out/shape --truth out/synthetic --results out/faces"]
    )
