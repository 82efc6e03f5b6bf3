"""What an evaluation of reconstructions would do: `jobs/evaluate.py shape|appearance|pictures --dry-run`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from raylib.config import (
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateSegmentationConfig,
    EvaluateShapeConfig,
)
from raylib.config.evaluate import FacesToJudge
from raylib.errors import ConfigError
from raylib.evaluation.baselines import chosen_methods
from raylib.evaluation.results import ResultsFolder
from raylib.evaluation.scans import landmark_files
from raylib.evaluation.segmentation import chosen_photos
from raylib.evaluation.truth import are_scans
from raylib.io.imagenet_weights import weights_plan
from raylib.metrics.lpips import load_lpips
from raylib.runtime.progress import say
from raylib.synthesis.parquet import SyntheticDataset
from raylib.training.plans import say_outputs


def print_shape_plan(config: EvaluateShapeConfig, console: Console) -> None:
    """Says which faces and methods would be measured.

    Raises:
        ConfigError: truth, results or what a baseline needs are not there.
    """
    _say_faces(config, console)
    for method in chosen_methods(config):
        say(console, f"would measure {method.name}")
    _say_results(config, console)
    pictures = ", shape_curves.svg, shape_heat.png, shape_worst.png" if config.pictures else ""
    say(console, f"would write shape.json, shape.md{pictures} to {config.out}")


def print_appearance_plan(config: EvaluateAppearanceConfig, console: Console) -> None:
    """Says which faces and results would be measured.

    Raises:
        ConfigError: truth, results or AlexNet's weights are not there.
    """
    if are_scans(config.truth):
        raise ConfigError(f"truth {config.truth!r} holds scans, expected Parquet files of jobs/synthesize.py")
    if config.lpips:
        say(console, weights_plan("LPIPS with AlexNet's weights", config.lpips, load_lpips))
    _say_faces(config, console)
    say(console, "would measure the mean face under even light")
    _say_results(config, console)
    pictures = ", appearance_worst.png" if config.pictures and config.worst else ""
    say(console, f"would write appearance.json, appearance.md{pictures} to {config.out}")


def print_pictures_plan(config: EvaluatePicturesConfig, console: Console) -> None:
    """Says how many pictures would be written.

    Raises:
        ConfigError: truth is not there.
    """
    count = len(SyntheticDataset(config.truth, config.storage_options))
    say(console, f"would write {count} pictures of {config.truth} to {config.out}")


def _say_faces(config: FacesToJudge, console: Console) -> None:
    if are_scans(config.truth):
        count, what = len(landmark_files(Path(config.truth).expanduser())), "scans"
    else:
        count, what = len(SyntheticDataset(config.truth, config.storage_options)), "synthetic faces"
    most = f", of which the first {config.max_faces} count" if 0 < config.max_faces < count else ""
    say(console, f"{count} {what} in {config.truth}{most}")


def _say_results(config: FacesToJudge, console: Console) -> None:
    for name, uri in config.result_folders.items():
        faces = len(ResultsFolder(name, uri, config.storage_options))
        say(console, f"would measure {name}: {faces} reconstructions in {uri}")


def print_segmentation_plan(config: EvaluateSegmentationConfig, console: Console) -> None:
    """Says which photographs an evaluation of the segmentation would see.

    Raises:
        ConfigError: data or weights are not what the configuration says.
    """
    photos, left_out = chosen_photos(config)
    sets = sorted({photo.dataset for photo in photos})
    counts = ", ".join(f"{sum(photo.dataset == name for photo in photos)} of {name}" for name in sets)
    say(console, f"would segment {counts or 'nothing'}; split {config.split}, framing {config.framing}")
    if left_out:
        say(console, f"{len(left_out)} files of the folders are left out")
    say_outputs(config.out, ("segmentation.json", "segmentation.md", "segmentation.png"), console)
