"""`jobs/evaluate.py appearance`: every method on every known picture, then tables and a contact sheet."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from raylib.config import EvaluateAppearanceConfig
from raylib.errors import ConfigError
from raylib.evaluation.appearance.errors import AppearanceErrors, AppearanceJudge
from raylib.evaluation.appearance.pictures import AppearanceSheet
from raylib.evaluation.appearance.report import by_tone, markdown, summarise
from raylib.evaluation.baselines import LandmarkSource, MeanFace
from raylib.evaluation.drawing import draw, to_linear
from raylib.evaluation.faces import Method, Prediction, TrueFace
from raylib.evaluation.results import ResultsFolder
from raylib.evaluation.truth import watched_faces
from raylib.metrics.lpips import load_lpips
from raylib.metrics.pictures import scale_between
from raylib.runtime.provenance import environment
from raylib.segmentation.labels import FACE_LABELS

_log = logging.getLogger(__name__)


class MeanAppearance:
    """What every method is compared with: mean face and mean albedo under even light as bright as the picture.

    Args:
        albedo: mean albedo of the faces that are judged.
        shape: the mean face, posed by landmarks.
    """

    name = MeanFace.name

    def __init__(self, albedo: Float[np.ndarray, "2113 3"], shape: MeanFace):
        self._albedo, self._shape = albedo, shape

    def __call__(self, face: TrueFace) -> Prediction:
        """Returns the mean face; without a pose where no landmarks are found."""
        mean = replace(self._shape(face), albedo=self._albedo)
        light = np.zeros((9, 3))
        light[0] = np.sqrt(4 * np.pi)
        if mean.camera is None or face.photo is None or face.appearance is None:
            return replace(mean, light_sh=light)
        size = face.photo.image.shape[:2]
        drawn = draw(mean.verts, mean.faces, mean.camera, self._albedo, size)
        mask = drawn.mask & np.isin(face.appearance.labels, FACE_LABELS)
        linear = to_linear(face.photo.image / 255.0)
        return replace(mean, light_sh=light * (scale_between(drawn.image[mask], linear[mask]) if mask.any() else 1.0))


def judged_faces(config: EvaluateAppearanceConfig, what: str) -> Iterator[TrueFace]:
    """Yields the known faces whose picture, camera, albedo and light are known.

    Args:
        config: tells the truth.
        what: what happens to the faces, for the display of progress.

    Raises:
        ConfigError: one of them is not, or there is no truth.
    """
    for face in watched_faces(config, 100, what):
        if face.appearance is None or face.photo is None or face.photo.camera is None:
            raise ConfigError(
                f"face {face.name!r} of truth {config.truth!r} has no known albedo and light, expected Parquet files "
                "of jobs/synthesize.py"
            )
        yield face


def mean_albedo(faces: Iterator[TrueFace]) -> Float[np.ndarray, "2113 3"]:
    """Returns the mean albedo of faces.

    Raises:
        ConfigError: there is no face.
    """
    total, count = np.zeros(()), 0
    for face in faces:
        assert face.appearance is not None
        total, count = total + face.appearance.albedo, count + 1
    if not count:
        raise ConfigError("truth holds no face, expected at least one")
    return total / count


def appearance_report(errors: dict[str, dict[str, AppearanceErrors]], resamples: int, seed: int) -> dict[str, Any]:
    """Returns the figures of all methods, ready for JSON.

    Args:
        errors: by method and face; the first method is the mean face.
        resamples: bootstrap draws of faces.
        seed: of the draws.
    """
    reference = next(iter(errors.values()))
    done = {name: by_face for name, by_face in errors.items() if by_face}
    return {
        "faces": len(reference),
        "methods": {
            name: {**summarise(e, reference, resamples, seed), "missing": len(reference) - len(e)}
            for name, e in done.items()
        },
        "by_tone": {name: by_tone(e, reference, resamples, seed) for name, e in done.items()},
    }


def run_appearance(config: EvaluateAppearanceConfig) -> dict[str, Any]:
    """Evaluates, writes `appearance.json`, `appearance.md` and pictures to `config.out`, and returns the report.

    Raises:
        ConfigError: truth, results or weights are not there or hold nothing to evaluate.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    results = [ResultsFolder(name, uri, config.storage_options) for name, uri in config.result_folders.items()]
    lpips = load_lpips(config.lpips) if config.lpips else None
    source = LandmarkSource(config.landmarks, config.landmark_noise_px, config.seed)
    reference = MeanAppearance(mean_albedo(judged_faces(config, "faces read")), MeanFace(source, config.fov_deg))
    drawn = config.pictures and config.worst > 0
    judge, sheet = AppearanceJudge(config.self_shadow, lpips, keep_pictures=drawn), AppearanceSheet(config.worst)
    methods: list[Method] = [reference, *results]
    errors: dict[str, dict[str, AppearanceErrors]] = {method.name: {} for method in methods}
    without_albedo = set()
    for face in judged_faces(config, "faces judged"):
        for method in methods:
            prediction = method(face)
            if prediction is None:
                continue
            try:
                found = judge(prediction, face)
            except ValueError as error:
                _log.warning("face %s by method %s cannot be judged: %s", face.name, method.name, error)
                continue
            sheet.add(method.name, face, prediction, found)
            errors[method.name][face.name] = replace(found, pictures={})
            if prediction.albedo is None:
                without_albedo.add(method.name)
    for method in results:
        if not errors[method.name]:
            raise ConfigError(
                f"results {config.result_folders[method.name]!r} hold no face of truth {config.truth!r}, expected "
                "reconstructions of its pictures"
            )
    report = {
        "config": asdict(config),
        **environment(("torch", "numpy", "scikit-image")),
        "without_albedo": sorted(without_albedo),
        **appearance_report(errors, config.resamples, config.seed),
    }
    report["per_face"] = {
        name: {
            face: {"tone": e.tone, "person": e.person, **{k: v for k, v in e.figures.items() if np.isfinite(v)}}
            for face, e in by_face.items()
        }
        for name, by_face in errors.items()
    }
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "appearance.json").write_text(json.dumps(report, indent=1))
    (out / "appearance.md").write_text(markdown(report) + "\n")
    picture = sheet.picture()
    if picture is not None:
        picture.save(out / "appearance_worst.png")
    return report
