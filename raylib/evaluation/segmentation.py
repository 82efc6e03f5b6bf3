"""Evaluating face segmentation on labelled photographs: what `jobs/evaluate.py segmentation` runs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from raylib.config import EvaluateSegmentationConfig, FaceSettings
from raylib.datasets.labelled import IGNORE, LabelledPhoto
from raylib.datasets.occluders import cover_face
from raylib.datasets.segmentation_sets import split_photos
from raylib.detection.alignment import crop_face
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.metrics.bootstrap import measure, text, text_interval
from raylib.metrics.segmentation import (
    bootstrap_sums,
    boundary_counts,
    boundary_f1,
    class_scores,
    confusion_matrix,
)
from raylib.runtime.progress import watched
from raylib.runtime.provenance import environment, sha256
from raylib.segmentation.labels import Label
from raylib.segmentation.segmenter import FaceSegmenter, shipped_weights
from raylib.training.segmentation.pictures import comparison_row, contact_sheet

NAMES = [label.name.lower() for label in Label]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageResult:
    """What one photograph contributes.

    Attributes:
        photo: which.
        confusion: pixels, true label by predicted label.
        boundary: see `metrics.segmentation.boundary_counts`.
    """

    photo: LabelledPhoto
    confusion: Int64[np.ndarray, "6 6"]
    boundary: Int64[np.ndarray, "6 4"]


def _face_crop(
    image: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], detector: FaceDetector
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]] | None:
    """Returns the reconstruction job's crop of the largest face with its labels; None where no face is found."""
    faces = detector(image)
    if not faces:
        return None
    crop = crop_face(image, faces[0].landmarks)
    size = len(crop.rgb)
    centres = np.arange(size) + 0.5
    x, y = np.meshgrid(centres, centres)
    where = np.floor(crop.points_to_photo(np.stack([x.ravel(), y.ravel()], -1))).astype(np.int64)
    inside = ((where >= 0) & (where < labels.shape[::-1])).all(1)
    moved = np.full(size * size, IGNORE, np.uint8)
    moved[inside] = labels[where[inside, 1], where[inside, 0]]
    return crop.rgb, moved.reshape(size, size)


def _prepared(
    photos: Iterable[LabelledPhoto], config: EvaluateSegmentationConfig
) -> Iterator[tuple[LabelledPhoto, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]]:
    """Yields each photograph as the network will see it, with its true labels."""
    detector = FaceDetector(FaceSettings()) if config.framing == "face_crop" else None
    for index, photo in enumerate(photos):
        image, labels = photo.load()
        if detector is not None:
            framed = _face_crop(image, labels, detector)
            if framed is None:
                _log.info("no face found in %s", photo.name)
                continue
            image, labels = framed
        seen = image
        if config.occlusion > 0:
            rng = np.random.default_rng((config.seed, index))
            seen, labels = cover_face(image, labels, config.occlusion, rng)
        yield photo, seen, labels


def evaluate_photos(
    photos: Sequence[LabelledPhoto], segmenter: FaceSegmenter, config: EvaluateSegmentationConfig
) -> tuple[list[ImageResult], list[UInt8[np.ndarray, "h w 3"]]]:
    """Returns each photograph's counts, and rows of photograph, prediction and truth for a contact sheet."""
    results, rows = [], []
    for photo, image, labels in _prepared(watched(photos, "photographs segmented"), config):
        guess = segmenter.segment(image[None])[0]
        tolerance = config.boundary_tolerance * math.hypot(*labels.shape)
        results.append(
            ImageResult(
                photo,
                confusion_matrix(labels, guess, len(Label), IGNORE),
                boundary_counts(labels, guess, len(Label), tolerance),
            )
        )
        rows.append(comparison_row(image, guess, labels))
    return results, rows


def _groups(results: list[ImageResult]) -> dict[str, list[ImageResult]]:
    """Returns the results by set, and FASSEG's also by head turn."""
    groups: dict[str, list[ImageResult]] = {}
    for result in results:
        names = [result.photo.dataset]
        yaw = result.photo.yaw_deg
        if yaw is not None:
            turn = abs(yaw)
            band = "frontal, yaw 0" if turn == 0 else "yaw 15 to 45" if turn <= 45 else "yaw 60 to 90"
            names.append(f"{result.photo.dataset}, {band}" if turn else f"{result.photo.dataset}, frontal")
        for name in names:
            groups.setdefault(name, []).append(result)
    return dict(sorted(groups.items()))


def summarise(results: list[ImageResult], resamples: int, seed: int) -> dict[str, Any]:
    """Returns one group's scores with 95 % confidence intervals over images, ready for JSON.

    Scores pool the pixels of all images; `mean_f1_per_image` instead averages each image's mean over its classes.
    """
    confusion = np.stack([result.confusion for result in results])
    boundary = np.stack([result.boundary for result in results])
    total = confusion.sum(0)
    scores = class_scores(total)
    drawn = class_scores(bootstrap_sums(confusion, resamples, seed))
    outlines = boundary_f1(boundary.sum(0))
    drawn_outlines = boundary_f1(bootstrap_sums(boundary, resamples, seed))
    classes = {}
    for k, name in enumerate(NAMES):
        measures = {
            "precision": (scores.precision, drawn.precision),
            "recall": (scores.recall, drawn.recall),
            "f1": (scores.f1, drawn.f1),
            "iou": (scores.iou, drawn.iou),
            "boundary_f1": (outlines, drawn_outlines),
        }
        classes[name] = {key: measure(value[k], samples[:, k]) for key, (value, samples) in measures.items()}
    return {
        "images": len(results),
        "persons": len({result.photo.person for result in results}),
        "mean_f1": measure(float(scores.mean_f1), drawn.mean_f1),
        "mean_iou": measure(float(scores.mean_iou), drawn.mean_iou),
        "mean_f1_per_image": float(np.mean(class_scores(confusion).mean_f1)),
        "pixel_accuracy": measure(float(scores.pixel_accuracy), drawn.pixel_accuracy),
        "classes": classes,
        "confusion": total.tolist(),
    }


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as Markdown tables, one per group."""
    lines = [f"# Face segmentation, {report['config']['split']} split", ""]
    for name, group in report["groups"].items():
        f1, accuracy = group["mean_f1"], group["pixel_accuracy"]
        lines += [
            f"## {name}: {group['images']} images, {group['persons']} persons",
            "",
            f"Mean F1 {text(f1)} ({text_interval(f1)}), pixel accuracy {text(accuracy, 4)} "
            f"({text_interval(accuracy, 4)}), mean IoU {text(group['mean_iou'])}; 95 % intervals over images.",
            "",
            "| class | precision | recall | F1 | F1, 95 % | IoU | boundary F1 |",
            "|---|---|---|---|---|---|---|",
        ]
        for label, c in group["classes"].items():
            lines.append(
                f"| {label} | {text(c['precision'])} | {text(c['recall'])} | {text(c['f1'])} "
                f"| {text_interval(c['f1'])} | {text(c['iou'])} | {text(c['boundary_f1'])} |"
            )
        lines += ["", "Confusion, share of each true class (rows) given each class (columns):", ""]
        lines += ["| | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
        for label, row in zip(NAMES, np.array(group["confusion"], dtype=np.float64), strict=True):
            share = row / max(row.sum(), 1)
            lines.append(f"| {label} | " + " | ".join(f"{value:.3f}" for value in share) + " |")
        lines.append("")
    return "\n".join(lines)


def chosen_photos(config: EvaluateSegmentationConfig) -> tuple[tuple[LabelledPhoto, ...], tuple[str, ...]]:
    """Returns the photographs to evaluate, and a sentence for each file that was left out.

    Raises:
        ConfigError: data are not there.
    """
    splits = split_photos(config.data)
    photos = {
        "train": splits.train,
        "validation": splits.validation,
        "test": splits.test,
        "all": splits.train + splits.validation + splits.test,
    }[config.split]
    if config.max_images:
        by_set: dict[str, list[LabelledPhoto]] = {}
        for photo in photos:
            by_set.setdefault(photo.dataset, []).append(photo)
        photos = tuple(photo for group in by_set.values() for photo in group[: config.max_images])
    return photos, splits.left_out


def run_evaluation(config: EvaluateSegmentationConfig) -> dict[str, Any]:
    """Evaluates, writes `segmentation.json`, `.md` and `.png` to `config.out`, and returns the report.

    Raises:
        ConfigError: data or weights are not there, or no photograph is left to evaluate.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    segmenter = FaceSegmenter(config.weights, config.device)
    photos, left_out = chosen_photos(config)
    results, rows = evaluate_photos(photos, segmenter, config)
    if not results:
        raise ConfigError(f"split {config.split!r} leaves no photograph with a face, expected at least one")
    report = {
        "config": asdict(config),
        "weights_sha256": sha256(Path(config.weights) if config.weights else shipped_weights()),
        **environment(("torch",)),
        "left_out": list(left_out),
        "without_face": len(photos) - len(results),
        "groups": {name: summarise(group, config.resamples, config.seed) for name, group in _groups(results).items()},
    }
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "segmentation.json").write_text(json.dumps(report, indent=1))
    (out / "segmentation.md").write_text(markdown(report))
    contact_sheet(rows[:: max(1, len(rows) // 30)][:30]).save(out / "segmentation.png")
    return report
