"""The run itself: checks, shards, the Ray Data pipeline, progress, and what is written when all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import threading
import time
import uuid
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raylib.config import FAILED, STATUSES, ReconstructConfig
from raylib.config.paths import absolute_paths
from raylib.errors import ConfigError, RaylibError, StorageError
from raylib.io.storage import Location, check_writable
from raylib.reconstruction.finished import Finished, Stock, settle, take_stock, to_do
from raylib.reconstruction.listing import Inputs, location_of, passed_over
from raylib.reconstruction.schema import SCHEMA_VERSION
from raylib.reconstruction.summary import print_summary
from raylib.reconstruction.waiting import forget, waits
from raylib.runtime.progress import say
from raylib.runtime.provenance import environment
from raylib.runtime.ray_cluster import check_ray, join_ray
from raylib.runtime.run_progress import Announced, RunProgress

if TYPE_CHECKING:
    from raylib.pipeline import Estimator

_SHAPING = (
    "method",
    "refine",
    "faces",
    "fit",
    "fov_deg",
    "max_pixels",
    "max_texture_px",
    "write_obj",
    "write_glb",
    "write_preview",
    "privacy",
    "hide_names",
)
"""Fields that change what comes out for an image; the others change where and how fast."""

_COUNTED = 10_000  # images that are counted before a pass starts

_PACKAGES = ("ray", "torch", "numpy", "numba", "dlib-bin", "pillow", "pillow-heif", "pyarrow")


def reconstruct(config: ReconstructConfig, console: Console | None = None) -> int:
    """Runs the job and returns its exit status.

    The inputs are listed again when all shards are done: images that came meanwhile, or that a lost node took with
    it, are done in another pass.

    Args:
        config: what to do.
        console: where progress and summary go; standard output by default.

    Returns:
        0, or 1 if the run did less than expected: an image listed has no row, all images failed, or more than
        `max_failed_fraction` of them.

    Raises:
        ConfigError: before any work, if input, output, model or an earlier run in the output do not fit.
    """
    console = console or Console()
    started = time.time()
    config = absolute_paths(config)
    inputs, output = Inputs.of(config), location_of(config.output, config)
    check_ray()
    with Announced(console, "looking for the input", config.progress_every_s):
        inputs = inputs.checked()
    from raylib.pipeline import load_method  # imports torch: only after the cheap checks

    method = load_method(config)
    check_writable(output)
    digest = config_sha256(config, method.weights_sha256)
    finished = settle(output, digest, config.retried)
    with Announced(console, "listing the input", config.progress_every_s):
        stock = take_stock(inputs, finished, _COUNTED)
    _say_stock(console, stock, finished)
    processed, rate, before = 0, None, -1
    while stock.to_do and len(finished.uris) > before:  # else a pass brought nothing
        done = _run_pass(config, inputs, output, method, digest, finished, stock, console)
        processed, rate = processed + done.images, done.rate or rate
        before, finished = len(finished.uris), settle(output, digest)
        with Announced(console, "listing the input again", config.progress_every_s):
            stock = take_stock(inputs, finished, _COUNTED)
    record = _run_record(config, digest, method, finished, stock, started, processed, rate)
    output.write_bytes("run.json", json.dumps(record, indent=2, default=str).encode())
    output.remove_temporary()
    print_summary(console, output, record)
    lacking = _less_than_expected(config, finished, stock)
    if lacking:
        say(console, lacking)
    return int(lacking is not None)


def _say_stock(console: Console, stock: Stock, finished: Finished) -> None:
    """Says what is there, what was passed over, and what is done already."""
    listed = f"{stock.listed} images listed" if stock.whole else f"more than {stock.listed - 1} images listed"
    say(console, f"{listed}; {passed_over(stock.passed)}" if stock.passed else listed)
    if finished.images:
        of = f" of {stock.listed}" if stock.whole else ""
        again = f", {len(finished.again)} are done again" if finished.again else ""
        say(console, f"{finished.images - len(finished.again)}{of} images are done already{again}")


def _less_than_expected(config: ReconstructConfig, finished: Finished, stock: Stock) -> str | None:
    """Returns why the run did not do what it was started for, None where it did."""
    failed = sum(finished.counts[status] for status in FAILED)
    if stock.to_do:
        some = "" if stock.whole else "more than "
        return f"{some}{stock.to_do} of {stock.listed} images listed have no row; the same command does them"
    if failed and failed == finished.images:
        return f"{failed} of {finished.images} images failed, so that nothing came of the run"
    if failed > config.max_failed_fraction * finished.images:
        return (
            f"{failed} of {finished.images} images failed, more than max_failed_fraction = "
            f"{config.max_failed_fraction:g} allows"
        )
    return None


def config_sha256(config: ReconstructConfig, weights_sha256: str) -> str:
    """Returns the hash of everything that shapes the result for an image."""
    values = dataclasses.asdict(config)
    shaping = {name: values[name] for name in _SHAPING} | {"model": weights_sha256, "schema": SCHEMA_VERSION}
    if config.privacy != "landmarks_only":
        shaping["quality"] = hashlib.sha256((files("raylib") / "weights" / "quality.json").read_bytes()).hexdigest()
    if config.segment:
        from raylib.segmentation.segmenter import shipped_weights

        shaping["segmentation"] = hashlib.sha256(shipped_weights().read_bytes()).hexdigest()
    if config.gpus_per_actor:
        shaping["gpu"] = True  # networks multiply in bfloat16 there, and labels differ at some borders
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def _run_pass(
    config: ReconstructConfig,
    inputs: Inputs,
    output: Location,
    method: Estimator,
    digest: str,
    finished: Finished,
    stock: Stock,
    console: Console,
) -> RunProgress:
    """Runs the stages over the images that are to do and returns how far they came."""
    mark = uuid.uuid4().hex
    progress = RunProgress(console, config.progress_every_s, lambda: waits(mark).line())
    import ray
    from ray.data import ActorPoolStrategy

    from raylib.reconstruction.detect_stage import AnalysisSettings, DetectStage
    from raylib.reconstruction.mesh_actor import MeshStage, mesher
    from raylib.reconstruction.shards import dataset

    join_ray()
    cpus = config.cluster_cpus or int(ray.cluster_resources().get("CPU", 1))
    detectors = config.detect_actors or max(1, cpus)
    meshers = config.reconstruct_actors or max(1, cpus)
    # Small inputs use every actor, too.
    size = min(config.images_per_shard, -(-stock.to_do // detectors))
    detectors, meshers = (min(actors, -(-stock.to_do // size)) for actors in (detectors, meshers))
    wanted = (detectors + meshers) * config.cpus_per_actor
    if wanted > cpus:
        raise ConfigError(
            f"{detectors} detect_actors and {meshers} reconstruct_actors of cpus_per_actor = "
            f"{config.cpus_per_actor} need {wanted:g} CPUs, but Ray has {cpus}; lower one of them"
        )
    settings = AnalysisSettings(
        config.faces, config.max_pixels, config.max_texture_px, config.image_timeout_s, config.image_memory_gb
    )
    common: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": config.cpus_per_actor}
    done = (
        dataset(inputs, finished, size)
        .map_batches(
            DetectStage,
            fn_constructor_args=(inputs, settings, mark),
            compute=ActorPoolStrategy(size=detectors),
            **common,
        )
        .map_batches(
            MeshStage,
            fn_constructor_args=(
                partial(mesher, output=output, config=config, config_sha256=digest),
                ray.put(pickle.dumps(method)),
                output,
                config.image_timeout_s,
            ),
            compute=ActorPoolStrategy(size=meshers),
            num_gpus=config.gpus_per_actor or None,
            **common,
        )
    )
    threading.Thread(target=_count, args=(inputs, finished, progress), daemon=True).start()
    with progress:
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    progress.add(pickle.loads(row["counts"]), row["faces"])
        except Exception as error:
            told = _own_error(error)
            if told is None:
                raise
            raise told from None
        finally:
            forget(mark)
    return progress


def _own_error(error: Exception) -> RaylibError | None:
    """Returns the error of an output or input that a stage ended with, None if something else went wrong.

    Ray Data wraps what a stage raises and loses it on the way to the driver; its traceback comes as text.
    """
    for line in map(str.strip, str(error).splitlines()):
        for kind in (StorageError, ConfigError):
            name = f"{kind.__module__}.{kind.__qualname__}: "
            if line.startswith(name):
                return kind(line.removeprefix(name))
    return None


def _count(inputs: Inputs, finished: Finished, progress: RunProgress) -> None:
    """Tells `progress` how many images there are to do; beside the work, since a bucket's listing takes long."""
    progress.total = sum(1 for _ in to_do(inputs, finished))


def _run_record(
    config: ReconstructConfig,
    digest: str,
    method: Estimator,
    finished: Finished,
    stock: Stock,
    started: float,
    processed: int,
    rate: float | None,
) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    # Values of storage options may be credentials.
    settings["storage_options"] = sorted(config.storage_options)
    if config.hide_names:
        settings |= {"input": None, "include": None, "exclude": None}
    return {
        "job": "reconstruct",
        "config": settings,
        "config_sha256": digest,
        "weights_sha256": method.weights_sha256,
        "morphable_model": method.model.name,
        "schema_version": SCHEMA_VERSION,
        "listed": stock.listed if stock.whole else None,
        "without_row": stock.to_do,
        "passed_over": dict(stock.passed.most_common()),
        "images": finished.images,
        "faces": finished.faces,
        "images_by_status": {s: finished.counts[s] for s in STATUSES if finished.counts[s]},
        "processed_in_this_run": processed,
        "seconds": round(time.time() - started, 3),
        "images_per_second": None if rate is None else round(rate, 3),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        **environment(_PACKAGES),
    }
