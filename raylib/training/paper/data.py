"""Faces for the mesh networks, prepared once: found, cropped, segmented, reduced, and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
from jaxtyping import Int
from ray.exceptions import WorkerCrashedError

from raylib.config import FaceSearchSettings, MeshnetData
from raylib.datasets.face_set import FaceSet, cached, labelled_face, photographed_faces
from raylib.datasets.labelled import LabelledPhoto
from raylib.datasets.rendered_faces import render_faces
from raylib.datasets.segmentation_sets import split_photos
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.io.images import EXTENSIONS
from raylib.runtime.progress import watched
from raylib.runtime.provenance import sha256
from raylib.runtime.ray_cluster import join_ray
from raylib.segmentation.segmenter import FaceSegmenter, shipped_weights

_FILES_PER_TASK = 24
Faces = list[tuple[np.ndarray, np.ndarray]]


def _labelled_chunk(photos: Sequence[LabelledPhoto], size: int, settings: FaceSearchSettings | None) -> Faces:
    detector = FaceDetector(settings) if settings is not None else None
    return [labelled_face(photo, size, detector) for photo in photos]


def _photo_chunk(paths: Sequence[Path], size: int, settings: FaceSearchSettings) -> Faces:
    detector, segmenter = FaceDetector(settings), FaceSegmenter()
    return [face for path in paths for face in photographed_faces(path, size, detector, segmenter)]


def _spread(work: Callable[..., Faces], items: Sequence[Any], *args: Any) -> Faces:
    """Returns the faces of all items in order, prepared by tasks on the Ray cluster.

    A chunk whose process crashes is done item by item; what crashes again is left out.
    """
    join_ray(worker_output=True)
    task = ray.remote(num_cpus=1, max_retries=0)(work)
    chunks = [items[i : i + _FILES_PER_TASK] for i in range(0, len(items), _FILES_PER_TASK)]
    faces: Faces = []
    answers = [task.remote(chunk, *args) for chunk in chunks]
    pairs = list(zip(chunks, answers, strict=True))
    for chunk, answer in watched(pairs, "photographs prepared", len(items), size=lambda pair: len(pair[0])):
        try:
            faces += ray.get(answer)
        except WorkerCrashedError:
            for item in chunk:
                try:
                    faces += ray.get(task.remote([item], *args))
                except WorkerCrashedError:
                    print(f"left out: {item} ends the process that reads it", flush=True)
    return faces


def _stamp(path: Path) -> list[object]:
    """Returns what tells a file from another version of itself."""
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class FaceSource:
    """Faces that are prepared together and wait in one file of the cache.

    Attributes:
        what: what they are made of.
        count: how many faces they are, None where only looking for them will tell.
        part: whether they are for training, for validation, or are shared out.
        key: everything that they depend on.
        make: prepares them.
    """

    what: str
    count: int | None
    part: Literal["train", "validation", "both"]
    key: dict[str, Any]
    make: Callable[[], FaceSet]


def _labelled(
    photos: tuple[LabelledPhoto, ...], part: Literal["train", "validation"], size: int, data: MeshnetData
) -> FaceSource:
    settings = data.faces if data.crop else None
    key = {
        "source": "labelled 1",
        "size": size,
        "faces": asdict(settings) if settings else None,
        "photos": [[p.dataset, p.name, *_stamp(p.image_path)] for p in photos],
    }
    use = "training" if part == "train" else part
    return FaceSource(
        f"{len(photos)} labelled photographs for {use}",
        len(photos),
        part,
        key,
        lambda: FaceSet.of(_spread(_labelled_chunk, photos, size, settings), size),
    )


def _photographed(folder: Path, size: int, data: MeshnetData) -> FaceSource:
    if not folder.is_dir():
        raise ConfigError(f"data.photos is {str(folder)!r}, expected a folder of photographs")
    names = (Path(root) / name for root, _, files in os.walk(folder) for name in files)
    paths = sorted(path for path in names if path.suffix.lower().lstrip(".") in EXTENSIONS)
    key = {
        "source": "photos 1",
        "size": size,
        "faces": asdict(data.faces),
        "segmenter": sha256(shipped_weights()),
        "photos": [_stamp(path) for path in paths],
    }
    return FaceSource(
        f"{len(paths)} photographs to find faces in",
        None,
        "both",
        key,
        lambda: FaceSet.of(_spread(_photo_chunk, paths, size, data.faces), size),
    )


def face_sources(data: MeshnetData, size: int) -> list[FaceSource]:
    """Returns what the faces of a training are made of; prepares nothing.

    Args:
        data: sources.
        size: side of the crops in pixels.

    Raises:
        ConfigError: a folder is not what it is said to be.
    """
    sources: list[FaceSource] = []
    labelled = data.labelled
    if labelled.fasseg or labelled.celebamask or labelled.helen:
        splits = split_photos(labelled)
        if splits.train:
            sources.append(_labelled(splits.train, "train", size, data))
        if splits.validation:
            sources.append(_labelled(splits.validation, "validation", size, data))
    if data.rendered:
        key = {"source": "rendered 1", "size": size, "count": data.rendered}
        what = f"{data.rendered} rendered faces"
        sources.append(FaceSource(what, data.rendered, "both", key, lambda: render_faces(data.rendered, size)))
    if data.photos is not None:
        sources.append(_photographed(Path(data.photos), size, data))
    return sources


def held_out(count: int, share: float) -> Int[np.ndarray, " n"]:
    """Returns which of so many faces are for validation.

    Evenly spread, so that the faces of one folder or person do not end up in one part alone.
    """
    return np.unique(np.linspace(0, count - 1, max(1, round(share * count))).astype(int))


def num_train(data: MeshnetData, sources: Sequence[FaceSource]) -> int | None:
    """Returns how many faces are for training, None where only looking for faces will tell."""
    total = 0
    for source in sources:
        if source.count is None:
            return None
        if source.part != "validation":
            total += source.count
        if source.part == "both":
            total -= len(held_out(source.count, data.validation_share))
    return total


def prepare_faces(data: MeshnetData, size: int) -> tuple[FaceSet, FaceSet]:
    """Returns the faces for training and those for validation.

    Args:
        data: sources; what was prepared before comes from its cache.
        size: side of the crops in pixels.

    Raises:
        ConfigError: a folder is not what it is said to be, or there are no faces for training or for validation.
    """
    train: list[FaceSet] = []
    validation: list[FaceSet] = []
    for source in face_sources(data, size):
        faces = cached(Path(data.cache), source.key, source.make)
        if source.part != "both":
            (train if source.part == "train" else validation).append(faces)
            continue
        held = held_out(len(faces), data.validation_share)
        validation.append(faces.select(held) if len(faces) else faces)
        train.append(faces.select(np.setdiff1d(np.arange(len(faces)), held)))
    counts = sum(map(len, train)), sum(map(len, validation))
    if not min(counts):
        raise ConfigError(
            f"data gives {counts[0]} faces for training and {counts[1]} for validation, expected some of each; see "
            "data.rendered, data.labelled and data.photos"
        )
    return FaceSet.joined(train), FaceSet.joined(validation)
