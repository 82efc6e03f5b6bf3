"""`jobs/evaluate.py shape`: every method on every known face, then tables and pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylib.config import EvaluateShapeConfig
from raylib.errors import ConfigError
from raylib.evaluation.baselines import chosen_methods
from raylib.evaluation.faces import Method, Prediction, TrueFace
from raylib.evaluation.results import ResultsFolder
from raylib.evaluation.shape.errors import ShapeErrors, shape_errors
from raylib.evaluation.shape.pictures import Case, WorstCases, curves, heat_maps, worst_cases
from raylib.evaluation.shape.regions import region_points
from raylib.evaluation.shape.report import by_yaw, markdown, summarise
from raylib.evaluation.truth import watched_faces
from raylib.runtime.provenance import environment

_log = logging.getLogger(__name__)


def evaluate_shapes(
    faces: Iterable[TrueFace], methods: list[Method], align: bool = True, worst: WorstCases | None = None
) -> dict[str, dict[str, ShapeErrors]]:
    """Returns the errors by method and face; a method lacks the faces that it did not reconstruct.

    Args:
        faces: known faces, seen once.
        methods: the first of them is the mean face.
        align: lay reconstructions onto the truth; otherwise they are measured where they stand.
        worst: is shown every case.

    Raises:
        ConfigError: two faces have one name.
    """
    errors: dict[str, dict[str, ShapeErrors]] = {method.name: {} for method in methods}
    for face in faces:
        if face.name in errors[methods[0].name]:
            raise ConfigError(f"truth has two faces called {face.name!r}, expected every name once")
        regions = region_points(face)
        for method in methods:
            prediction = method(face)
            found = None if prediction is None else _errors(method, prediction, face, regions, align)
            if prediction is None or found is None:
                if method is methods[0]:
                    break  # not even the mean face can be measured: the truth is to blame
                continue
            errors[method.name][face.name] = found
            if worst is not None:
                worst.add(method.name, Case(face, prediction, found))
    return errors


def _errors(
    method: Method, prediction: Prediction, face: TrueFace, regions: dict[str, Any], align: bool
) -> ShapeErrors | None:
    """Returns a face's errors; None, with a line in the log, for a mesh that cannot be measured: it is missing."""
    try:
        return shape_errors(prediction, face, regions, align)
    except ValueError as error:
        _log.warning("face %s by method %s cannot be measured: %s", face.name, method.name, error)
        return None


def shape_report(errors: dict[str, dict[str, ShapeErrors]], resamples: int, seed: int) -> dict[str, Any]:
    """Returns the figures of all methods, ready for JSON.

    Args:
        errors: by method and face; the first method is the mean face.
        resamples: bootstrap draws of faces.
        seed: of the draws.
    """
    reference = next(iter(errors.values()))
    done = {name: by_face for name, by_face in errors.items() if by_face}
    common = set.intersection(*(set(by_face) for by_face in done.values()))

    def summarised(by_face: dict[str, ShapeErrors]) -> dict[str, Any]:
        figures = summarise(by_face, reference, resamples, seed)
        missing = len(reference) - len(by_face)
        return {**figures, "missing": missing, "by_yaw": by_yaw(by_face, reference, resamples, seed)}

    report = {
        "faces": len(reference),
        "methods": {name: summarised(by_face) for name, by_face in done.items()},
        "common": None,
        "without_a_face": sorted(set(errors) - set(done)),
    }
    if common and any(len(by_face) > len(common) for by_face in done.values()):
        cut = {name: {face: by_face[face] for face in common} for name, by_face in done.items()}
        report["common"] = {
            "faces": len(common),
            "methods": {n: {**summarise(e, reference, resamples, seed), "missing": 0} for n, e in cut.items()},
        }
    return report


def _known(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def run_shape(config: EvaluateShapeConfig) -> dict[str, Any]:
    """Evaluates, writes `shape.json`, `shape.md` and pictures to `config.out`, and returns the report.

    Raises:
        ConfigError: truth or results are not there or hold nothing to evaluate.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    results: list[Method] = [
        ResultsFolder(name, uri, config.storage_options) for name, uri in config.result_folders.items()
    ]
    faces = watched_faces(config, config.scan_points, "faces judged")
    methods = [*chosen_methods(config), *results]
    worst = WorstCases(config.worst if config.pictures else 0)
    errors = evaluate_shapes(faces, methods, config.align, worst)
    for method in results:
        if not errors[method.name]:
            raise ConfigError(
                f"results {config.result_folders[method.name]!r} hold no face of truth {config.truth!r}, expected "
                "reconstructions of its pictures, or meshes of the same names"
            )
    report = {
        "config": asdict(config),
        **environment(("torch", "numpy")),
        **shape_report(errors, config.resamples, config.seed),
    }
    report["per_face"] = {
        name: {face: {"median_mm": float(np.median(e.distances)), **_known(e.figures)} for face, e in by_face.items()}
        for name, by_face in errors.items()
    }
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "shape.json").write_text(json.dumps(report, indent=1))
    (out / "shape.md").write_text(markdown(report) + "\n")
    if config.pictures:
        (out / "shape_curves.svg").write_text(curves(errors))
        heat_maps(errors).save(out / "shape_heat.png")
        sheet = worst_cases(worst)
        if sheet is not None:
            sheet.save(out / "shape_worst.png")
    return report
