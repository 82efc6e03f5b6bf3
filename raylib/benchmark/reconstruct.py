"""Times the reconstruction job: where the time of an image goes, and what Ray makes of all cores."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raylib.benchmark.record import write_record
from raylib.config import BenchmarkReconstructConfig, FaceSettings, ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.analysis import Analyser, AnalysisSettings
from raylib.reconstruction.meshing import MeshingSettings, ReconstructStage
from raylib.reconstruction.methods import load_method
from raylib.reconstruction.rows import STAGES
from raylib.reconstruction.run import reconstruct
from raylib.reconstruction.storage import Location, image_files, open_input


def run(config: BenchmarkReconstructConfig) -> int:
    """Prints and writes the figures; returns the exit status."""
    if Path(config.work).exists():
        raise ConfigError(f"work is {config.work!r}, which exists already; expected a folder to be made")
    job = ReconstructConfig(config.input, f"{config.work}/ray", faces=FaceSettings(detector=config.detector))
    source = Location(config.input)
    open_input(source)
    paths = list(image_files(source))[: config.images]
    results: dict[str, Any] = {"plain_loop": _plain_loop(job, paths, f"{config.work}/loop")}
    reconstruct(job)
    record = json.loads((Path(job.output) / "run.json").read_text())
    results["ray"] = {name: record[name] for name in ("images", "faces", "images_per_second", "machine")}
    print(_markdown(results))
    write_record(config.output, config, results)
    return 0


def _plain_loop(job: ReconstructConfig, paths: list[str], output: str) -> dict[str, Any]:
    """Returns seconds a stage and images a second of the same stages in this process, one thread, once warm."""
    torch.set_num_threads(1)
    analyse = Analyser(AnalysisSettings(job.faces, job.max_pixels, job.max_texture_px, job.image_timeout_s))
    stage = ReconstructStage(load_method(job), Location(output), MeshingSettings(job, ""))
    rows: list[dict[str, Any]] = []
    for images in (paths[:4], paths):  # the first few compile the kernels
        start = time.perf_counter()
        analysed = [
            replace(analyse(Path(path).read_bytes()), uri=path, sha256=f"{i:016x}") for i, path in enumerate(images)
        ]
        rows = stage.rows(analysed)
        seconds = time.perf_counter() - start
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        for name in STAGES:
            shared = name in ("read", "decode", "detect") and row.get("face_index")
            total[name] += 0.0 if shared else row[f"seconds_{name}"] or 0.0
    return {
        "images": len(paths),
        "faces": sum(row["status"] == "ok" for row in rows),
        "images_per_second": len(paths) / seconds,
        "milliseconds_per_image": {name: 1000 * total[name] / len(paths) for name in STAGES if name != "read"},
    }


def _markdown(results: dict[str, Any]) -> str:
    loop, ray = results["plain_loop"], results["ray"]
    lines = [
        "| stage, one core | ms an image |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in loop["milliseconds_per_image"].items()),
        "",
        "| | images | faces | images/s |",
        "|---|---|---|---|",
        f"| plain loop, one core | {loop['images']} | {loop['faces']} | {loop['images_per_second']:.1f} |",
        f"| Ray, {ray['machine']['cpus']} cores, start-up aside | {ray['images']} | {ray['faces']} "
        f"| {ray['images_per_second']:.1f} |",
    ]
    return "\n".join(lines)
