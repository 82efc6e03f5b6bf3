"""Training the U-Net on Ray Train: from the configuration to the weights file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raylib.config import TrainUnetConfig
from raylib.datasets.segmentation_sets import Splits, split_photos
from raylib.errors import ConfigError
from raylib.metrics.curves import draw_curves
from raylib.runtime.provenance import sha256
from raylib.segmentation.labels import Label
from raylib.segmentation.segmenter import FaceSegmenter, load_weights, save_weights
from raylib.training.ray_run import Trained, absolute, absolute_data, absolute_run, run_trainer
from raylib.training.segmentation.pictures import comparison_row, contact_sheet
from raylib.training.segmentation.task import UnetTask, input_px

_SHEET_ROWS = 18


def _write_results(config: TrainUnetConfig, splits: Splits, trained: Trained[UnetTask]) -> Path:
    """Writes the best epoch's weights, the curves, the contact sheet and the configuration; returns the weights."""
    out = Path(config.out)
    weights = out / "unet.safetensors"
    save_weights(trained.state.average, weights, input_px(config))
    photographs = {name: len(getattr(splits, name)) for name in ("train", "validation", "test", "left_out")}
    trained.write_record(config, "train_unet", photographs=photographs, weights_sha256=sha256(weights))
    columns = trained.columns()
    f1 = {label.name.lower(): columns[f"val_f1_{label.name.lower()}"] for label in Label}
    mean = {"mean F1": columns[UnetTask.score]}
    panels = {"training loss": {"loss": columns["loss"]}, "validation F1": f1, "mean": mean}
    (out / "curves.svg").write_text(draw_curves(columns["epoch"], panels))
    segmenter = FaceSegmenter(weights)
    rows = []
    for photo in splits.validation[:: max(1, len(splits.validation) // _SHEET_ROWS)][:_SHEET_ROWS]:
        image, labels = photo.load()
        rows.append(comparison_row(image, segmenter.segment(image[None])[0], labels))
    contact_sheet(rows).save(out / "contact_sheet.png")
    return weights


def checked(config: TrainUnetConfig) -> tuple[TrainUnetConfig, Splits]:
    """Returns the configuration with absolute paths, and the photographs that it names.

    Raises:
        ConfigError: data or weights are not what the configuration says.
    """
    data = absolute_data(config.data)
    config = absolute_run(replace(config, data=data, init_weights=absolute(config.init_weights)))
    splits = split_photos(config.data)
    if not splits.train or not splits.validation:
        raise ConfigError(
            f"data gives {len(splits.train)} training and {len(splits.validation)} validation photographs, expected "
            "some of each; see data.fasseg_validation and data.celebamask_validation"
        )
    if config.init_weights:
        load_weights(Path(config.init_weights))
    return config, splits


def run_training(config: TrainUnetConfig) -> Path:
    """Trains, or goes on with the run of the same name, and returns the path of the best epoch's weights.

    Connects to the Ray cluster of the environment, or starts Ray here.

    Raises:
        ConfigError: data, weights or checkpoints are not what the configuration says.
        StorageError: checkpoints cannot be written any more.
    """
    config, splits = checked(config)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    for sentence in splits.left_out:
        print(f"left out: {sentence}")
    return _write_results(config, splits, run_trainer(UnetTask, splits, config))
