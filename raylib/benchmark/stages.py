"""What each stage of the paper's loss contributes: a table from finished trainings, and one picture."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raylib.benchmark.record import outputs, write_record
from raylib.config import BenchmarkStagesConfig, FaceSettings
from raylib.datasets.face_set import FaceSet, photographed_faces
from raylib.datasets.rendered_faces import render_faces
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.paper.scene import load_meshnet, network_input
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.training.paper.tasks import as_bytes

_COLUMNS = {
    "val_psnr_db": "masked PSNR, dB",
    "val_vgg_distance": "VGG distance",
    "val_flying_edges": "flying edges",
    "val_chamfer": "chamfer",
}
_RENDERED = 3
_FIRST_SEED = 1_000_000  # beyond the faces that any training is likely to have seen


def _shown_faces(size: int) -> FaceSet:
    """Returns faces that may be published: NASA's portrait from scikit-image, and some rendered ones."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None
    portrait = Path(spec.origin).parent / "data" / "astronaut.png"
    found = photographed_faces(portrait, size, FaceDetector(FaceSettings(detector="hog")), FaceSegmenter())
    return FaceSet.joined([FaceSet.of(found[:1], size), render_faces(_RENDERED, size, _FIRST_SEED)])


@torch.inference_mode()
def _column(weights: Path, faces: FaceSet) -> np.ndarray:
    """Returns how a trained network renders the faces, one below the other."""
    trained = load_meshnet(weights)
    offsets, colors = trained.network(network_input(faces.images, faces.labels))
    scene = trained.scene()
    return np.concatenate(list(as_bytes(scene.render(scene.verts + offsets, colors).image)))


def _rows(config: BenchmarkStagesConfig) -> list[dict[str, Any]]:
    """Returns the last figures of each training; a `ConfigError` where a folder is none."""
    rows: list[dict[str, Any]] = []
    for folder in map(Path, config.runs):
        if not (folder / "history.json").is_file():
            raise ConfigError(f"runs has {str(folder)!r}, expected the results of jobs/train_meshnet.py")
        last = json.loads((folder / "history.json").read_text())[-1]
        rows.append({"run": folder.name, "epochs": int(last["epoch"])} | {k: last.get(k) for k in _COLUMNS})
    return rows


def plan(config: BenchmarkStagesConfig) -> list[str]:
    """Returns what a run would do, in lines; a `ConfigError` where a training is not there."""
    compared = [f"would compare {row['run']} after {row['epochs']} epochs" for row in _rows(config)]
    return [*compared, *outputs(config.output, config.picture)]


def run(config: BenchmarkStagesConfig) -> int:
    """Prints a table of the trainings' last figures and draws faces as each of their networks renders them."""
    rows = _rows(config)
    print(f"| run | epochs | {' | '.join(_COLUMNS.values())} |")
    print("|---" * (len(_COLUMNS) + 2) + "|")
    for row in rows:
        figures = ["-" if row[k] is None else f"{row[k]:.4g}" for k in _COLUMNS]
        print(f"| {row['run']} | {row['epochs']} | {' | '.join(figures)} |")
    if config.picture:
        networks = [Path(folder) / "meshnet.safetensors" for folder in config.runs]
        faces = _shown_faces(load_meshnet(networks[0]).network.input_px)
        columns = [np.concatenate(list(faces.images)), *(_column(weights, faces) for weights in networks)]
        picture = Image.fromarray(np.concatenate(columns, axis=1))
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(config.picture)
    write_record(config.output, config, {"stages": rows})
    return 0
