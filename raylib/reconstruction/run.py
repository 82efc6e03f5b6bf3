"""The run itself: checks, shards, the Ray Data pipeline, progress, and what is written when all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import pickle
import platform
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raylib import __version__
from raylib.config import ReconstructConfig
from raylib.errors import ConfigError
from raylib.morphable import LinearFaceModel
from raylib.reconstruction.rows import SCHEMA_VERSION, STATUSES
from raylib.reconstruction.storage import Location, check_writable, image_files, open_input
from raylib.reconstruction.summary import print_summary, read_rows

_SHAPING = (
    "method",
    "faces",
    "fit",
    "fov_deg",
    "max_pixels",
    "max_texture_px",
    "write_obj",
    "write_glb",
    "write_preview",
)
"""Fields that change what comes out for an image; the others change where and how fast."""

_LEAST_RATE_SECONDS = 2.0

_PACKAGES = ("ray", "torch", "numpy", "numba", "dlib-bin", "pillow", "pillow-heif", "pyarrow")


def reconstruct(config: ReconstructConfig, console: Console | None = None) -> int:
    """Runs the job and returns its exit status.

    Args:
        config: what to do.
        console: where progress and summary go; standard output by default.

    Raises:
        ConfigError: before any work, if input, output, model or an earlier run in the output do not fit.
    """
    console = console or Console()
    started = time.time()
    source = Location(config.input, config.storage_options)
    output = Location(config.output, config.storage_options)
    open_input(source)
    paths = list(image_files(source))
    if not paths:
        raise ConfigError(f"input {config.input!r} holds no image file (.jpg, .png, ...)")
    from raylib.model_files import load_model  # imports torch: only after the cheap checks

    model = load_model(config.morphable_model)
    check_writable(output)
    digest = config_sha256(config, model.sha256)
    done = _finished_uris(output, digest)
    todo = [path for path in paths if source.shown(path) not in done]
    if len(todo) < len(paths):
        console.print(f"{len(paths) - len(todo)} of {len(paths)} images are done already")
    rate = _run_pipeline(config, source, output, model, digest, todo, console) if todo else None
    table = read_rows(output, ["image_uri", "status", "face_index"])
    record = _run_record(config, digest, model, table, started, len(todo), rate)
    output.write_bytes("run.json", json.dumps(record, indent=2, default=str).encode())
    print_summary(console, output, record)
    return 0


def config_sha256(config: ReconstructConfig, model_sha256: str) -> str:
    """Returns the hash of everything that shapes the result for an image."""
    values = dataclasses.asdict(config)
    shaping = {name: values[name] for name in _SHAPING} | {"model": model_sha256, "schema": SCHEMA_VERSION}
    if config.segment:
        from raylib.segmentation import shipped_weights

        shaping["segmentation"] = hashlib.sha256(shipped_weights().read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _finished_uris(output: Location, digest: str) -> set[str]:
    """Returns the images that the output already has rows of.

    Raises:
        ConfigError: they come from another configuration or model.
    """
    table = read_rows(output, ["image_uri", "config_sha256"])
    others = set(table["config_sha256"].to_pylist()) - {digest}
    if others:
        raise ConfigError(
            f"output {output.uri!r} holds rows of another configuration or model (config_sha256 "
            f"{sorted(others)[0][:16]}..., now {digest[:16]}...); choose another output, or remove this one"
        )
    return set(table["image_uri"].to_pylist())


def _shards(paths: list[str], size: int) -> Iterator[dict[str, Any]]:
    """Yields shards of paths; pickled, since not every file name is valid UTF-8."""
    for start in range(0, len(paths), size):
        shard = paths[start : start + size]
        name = hashlib.sha256("\n".join(shard).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        yield {"shard_id": name, "shard": pickle.dumps(shard)}


def _run_pipeline(
    config: ReconstructConfig,
    source: Location,
    output: Location,
    model: LinearFaceModel,
    digest: str,
    paths: list[str],
    console: Console,
) -> float | None:
    """Runs the stages over the images and returns the images a second after the first shard, start-up aside."""
    import ray
    from ray.data import ActorPoolStrategy

    from raylib.reconstruction.analysis import AnalysisSettings, DetectStage
    from raylib.reconstruction.meshing import MeshingSettings, ReconstructStage

    _start_ray()
    cpus = int(ray.cluster_resources().get("CPU", 1))
    detectors = config.detect_actors or max(1, cpus)
    meshers = config.reconstruct_actors or max(1, cpus // 2)
    # Small inputs still use every actor.
    size = min(config.images_per_shard, math.ceil(len(paths) / detectors))
    shards = list(_shards(paths, size))
    detectors, meshers = min(detectors, len(shards)), min(meshers, len(shards))
    wanted = (detectors + meshers) * config.cpus_per_actor
    if wanted > cpus:
        raise ConfigError(
            f"{detectors} detect_actors and {meshers} reconstruct_actors of cpus_per_actor = "
            f"{config.cpus_per_actor} need {wanted:g} CPUs, but Ray has {cpus}; lower one of them"
        )
    settings = AnalysisSettings(config.faces, config.max_pixels, config.max_texture_px, config.image_timeout_s)
    common: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": config.cpus_per_actor}
    done = (
        ray.data.from_items(shards, override_num_blocks=len(shards))
        .map_batches(
            DetectStage,
            fn_constructor_args=(source, settings),
            compute=ActorPoolStrategy(size=detectors),
            **common,
        )
        .map_batches(
            ReconstructStage,
            fn_constructor_args=(ray.put(model), output, MeshingSettings(config, digest)),
            compute=ActorPoolStrategy(size=meshers),
            **common,
        )
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    counts: Counter[str] = Counter()
    faces = 0
    finished: list[tuple[float, int]] = []  # when a shard was done, and its images
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("images", total=len(paths), detail="starting")
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                counts += pickle.loads(row["counts"])
                faces += row["faces"]
                failed = sum(counts.values()) - counts["ok"] - counts["no_face"]
                finished.append((time.perf_counter(), row["images"]))
                rate = _rate(finished)
                detail = f"{faces} faces, {failed} failed" + (f", {rate:.1f} images/s" if rate else "")
                progress.update(bar, advance=row["images"], detail=detail)
    return _rate(finished)


def _rate(finished: list[tuple[float, int]]) -> float | None:
    """Returns images a second from the first shard's end on, None where that is too short to say."""
    seconds = finished[-1][0] - finished[0][0]
    return sum(images for _, images in finished[1:]) / seconds if seconds >= _LEAST_RATE_SECONDS else None


def _start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS or a local `ray start` names, or starts one for this process alone."""
    import ray

    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if os.environ.get("RAY_ADDRESS") or _local_cluster_answers():
            ray.init(address="auto", **quiet)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            # Two logical CPUs at least, since two stages run side by side.
            ray.init(address="local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, **quiet)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _local_cluster_answers() -> bool:
    """Tells whether the cluster that `ray start` noted on this machine still runs.

    Ray itself would wait for minutes for one that was killed and could not remove its note.
    """
    note = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        host, port = note.read_text().strip().rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this code runs from, None where it is installed otherwise."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _run_record(
    config: ReconstructConfig,
    digest: str,
    model: LinearFaceModel,
    table: pa.Table,
    started: float,
    processed: int,
    rate: float | None,
) -> dict[str, Any]:
    first_rows = {}
    faces = 0
    for uri, status, index in zip(
        *(table[c].to_pylist() for c in ("image_uri", "status", "face_index")), strict=True
    ):
        if not index:
            first_rows[uri] = status
        faces += status == "ok"
    counts = Counter(first_rows.values())
    seconds = time.time() - started
    return {
        "job": "reconstruct",
        # Values of storage options may be credentials.
        "config": dataclasses.asdict(config) | {"storage_options": sorted(config.storage_options)},
        "config_sha256": digest,
        "weights_sha256": model.sha256,
        "morphable_model": model.name,
        "schema_version": SCHEMA_VERSION,
        "images": len(first_rows),
        "faces": faces,
        "images_by_status": {s: counts[s] for s in STATUSES if counts[s]},
        "processed_in_this_run": processed,
        "seconds": round(seconds, 3),
        "images_per_second": None if rate is None else round(rate, 3),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "git_commit": _git_commit(),
        "versions": {"physface": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES},
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }
