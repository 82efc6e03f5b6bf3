"""Measures what Ray costs the reconstruction job and what it brings, against a plain loop over the same stages."""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance
from rich.console import Console

from raylib.benchmark.processes import Pinned, measured
from raylib.benchmark.record import check_new, outputs, write_record
from raylib.config import BenchmarkReconstructConfig, FaceSettings, ReconstructConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location, open_input
from raylib.reconstruction.folders import image_files
from raylib.runtime.progress import watched

_WARM = 16  # images of the shorter of two runs, whose difference is free of start-up
Figures = dict[str, Any]


def run(config: BenchmarkReconstructConfig) -> int:
    """Prints and writes the figures; returns the exit status.

    In each round the plain loop runs on one core, two of them side by side on two cores, the job on one core with one
    actor of each stage, and the job on two cores with two. Ray's runs are made twice, over few images and over
    `images` more: the difference is free of start-up.
    """
    work, cores = Path(config.work), _checked(config)
    few, many = _lists(config, work)
    rounds: list[dict[str, Figures]] = []
    for n in watched(range(config.rounds), "rounds"):
        loops = [_loop(config, many, work / f"{n}" / f"loop{i}", core) for i, core in enumerate(cores)]
        figures: dict[str, Figures] = {"loop": measured(loops[:1])[0]}
        beside = measured(loops)
        slowest = max(of["seconds"] for of in beside)
        figures["loops_side_by_side"] = {"images_per_second": len(cores) * config.images / slowest}
        for actors in (1, config.actors):
            figures[f"ray_{actors}"] = _ray(config, few, many, work / f"{n}", actors, cores[:actors])
        rounds.append(figures)
        shutil.rmtree(work / f"{n}")
    results = _results(config, rounds)
    print(_markdown(config, results))
    write_record(config.output, config, {"summary": results, "rounds": rounds})
    return 0


def plan(config: BenchmarkReconstructConfig) -> list[str]:
    """Returns what a run would do, in lines; a `ConfigError` where it could not."""
    cores, wanted = _checked(config), _WARM + config.images
    if config.input:
        source = f"{wanted} of {len(_photographs(config.input, wanted))} photographs in {config.input}"
    else:
        source = f"{wanted} photographs drawn from one portrait"
    return [
        f"would time {source}, {config.rounds} rounds, on the cores {cores}",
        f"each round: the plain loop alone and side by side, the job with one actor a stage and with {config.actors}",
        *outputs(config.output),
    ]


def _checked(config: BenchmarkReconstructConfig) -> list[int]:
    """Returns the cores to run on; a `ConfigError` where there are too few, or the folder is there already."""
    check_new(config.work)
    cores = sorted(os.sched_getaffinity(0))[: config.actors]
    if len(cores) < config.actors:
        raise ConfigError(f"actors is {config.actors}, expected no more than this process has cores: {len(cores)}")
    return cores


def _photographs(folder: str, wanted: int) -> list[str]:
    """Returns the photographs of a folder; a `ConfigError` where they are too few."""
    source = Location(folder)
    open_input(source)
    paths = list(image_files(source))
    if len(paths) < wanted:
        raise ConfigError(f"input {folder!r} holds {len(paths)} photographs, expected {wanted}")
    return paths


def _lists(config: BenchmarkReconstructConfig, work: Path) -> tuple[Path, Path]:
    """Returns manifests of the few and the many photographs, drawing these where no input is given."""
    folder = Path(config.input)
    wanted = _WARM + config.images
    if not config.input:
        folder = work / "photographs"
        folder.mkdir(parents=True)
        spec = find_spec("skimage")
        assert spec is not None and spec.origin is not None
        portrait = Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB")
        for n in range(wanted):
            picture = ImageEnhance.Brightness(portrait).enhance(0.8 + 0.4 * n / wanted)
            picture.save(folder / f"{n:06d}.jpg", quality=90)
    paths = _photographs(str(folder), wanted)
    work.mkdir(parents=True, exist_ok=True)
    lists = (work / "few.txt", work / "many.txt")
    for path, count in zip(lists, (_WARM, wanted), strict=True):
        path.write_text("\n".join(paths[:count]))
    return lists


def _job(config: BenchmarkReconstructConfig, listed: Path, output: Path, actors: int) -> ReconstructConfig:
    return ReconstructConfig(
        str(listed),
        str(output),
        faces=FaceSettings(detector=config.detector),
        detect_actors=actors,
        reconstruct_actors=actors,
        cpus_per_actor=0.4,
    )


def _loop(config: BenchmarkReconstructConfig, listed: Path, output: Path, core: int) -> Pinned:
    return Pinned(plain_loop, {core}, _job(config, listed, output, 1))


def _ray(
    config: BenchmarkReconstructConfig, few: Path, many: Path, work: Path, actors: int, cores: list[int]
) -> Figures:
    """Returns seconds, CPU seconds and rate of the images by which two runs differ, and what the longer took."""
    runs = []
    for name, listed in (("few", few), ("many", many)):
        output = work / f"ray{actors}-{name}"
        runs.append(measured([Pinned(ray_job, set(cores), _job(config, listed, output, actors))])[0])
    short, long = runs
    seconds = long["seconds"] - short["seconds"]
    return {
        "images_per_second": config.images / seconds,
        "cpu_ms_per_image": 1000 * (long["cpu_seconds"] - short["cpu_seconds"]) / config.images,
        "cpu_ms_per_image_by_kind": {
            kind: 1000 * (usage["cpu_seconds"] - short["usage"].get(kind, usage)["cpu_seconds"]) / config.images
            for kind, usage in long["usage"].items()
        },
        "short": short,
        "long": long,
    }


def ray_job(job: ReconstructConfig) -> Figures:
    """Runs the job; returns its seconds, start-up included, and its images by status."""
    from raylib.reconstruction.run import reconstruct

    start = time.perf_counter()
    reconstruct(job, Console(file=io.StringIO()))
    record = json.loads((Path(job.output) / "run.json").read_text())
    return {"seconds": time.perf_counter() - start, "images_by_status": record["images_by_status"]}


def plain_loop(job: ReconstructConfig) -> Figures:
    """Runs the same stages in this process, a shard at a time, and writes the same files.

    Returns:
        Seconds and CPU seconds after the first `_WARM` images, milliseconds of an image by stage.
    """
    import torch

    from raylib.pipeline import load_method
    from raylib.reconstruction.detect_stage import Analyser, AnalysisSettings, ImageFile
    from raylib.reconstruction.finished import part_name
    from raylib.reconstruction.listing import Inputs
    from raylib.reconstruction.mesh_stage import MeshingSettings, ReconstructStage
    from raylib.reconstruction.schema import STAGES, to_parquet

    torch.set_num_threads(1)
    inputs, output = Inputs.of(job), Location(job.output)
    analyse = Analyser(AnalysisSettings(job.faces, job.max_pixels, job.max_texture_px, job.image_timeout_s))
    stage = ReconstructStage(load_method(job), output, MeshingSettings(job, ""))
    items = list(inputs.items())
    rows: list[dict[str, Any]] = []

    def shards(from_: int, to: int) -> None:
        for start in range(from_, to, job.images_per_shard):
            analysed = []
            for item in items[start : min(to, start + job.images_per_shard)]:
                begin = time.perf_counter()
                location, path = inputs.resolve(item)
                data = location.read_bytes(path)
                file = ImageFile(inputs.shown(item), data, time.perf_counter() - begin)
                analysed.append(analyse(file))
            done = stage.rows(analysed)
            output.write_bytes(part_name(f"{start:08d}"), to_parquet(done))
            rows.extend(done)

    shards(0, _WARM)
    rows.clear()
    start, cpu = time.perf_counter(), time.process_time()
    shards(_WARM, len(items))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    images = len(items) - _WARM
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        for name in STAGES:
            shared = name in ("read", "decode", "detect") and row.get("face_index")
            total[name] += 0.0 if shared else row[f"seconds_{name}"] or 0.0
    return {
        "seconds": seconds,
        "images_per_second": images / seconds,
        "cpu_ms_per_image": 1000 * cpu_seconds / images,
        "faces": sum(row["status"] == "ok" for row in rows),
        "milliseconds_per_image": {name: 1000 * total[name] / images for name in STAGES},
    }


def _results(config: BenchmarkReconstructConfig, rounds: list[dict[str, Figures]]) -> Figures:
    """Returns medians over the rounds, and ratios taken within each round."""

    def median(of: Callable[[dict[str, Figures]], float]) -> float:
        return statistics.median(of(figures) for figures in rounds)

    many = f"ray_{config.actors}"
    last = rounds[-1]
    return {
        "images_per_second": {
            name: median(lambda f, name=name: f[name]["images_per_second"])  # type: ignore[misc]
            for name in ("loop", "loops_side_by_side", "ray_1", many)
        },
        "loop_cpu_ms_per_image": median(lambda f: f["loop"]["cpu_ms_per_image"]),
        "ray_cpu_ms_per_image": median(lambda f: f["ray_1"]["cpu_ms_per_image"]),
        "overhead": median(lambda f: f["loop"]["images_per_second"] / f["ray_1"]["images_per_second"] - 1),
        "overhead_on_all_cores": median(
            lambda f: f["loops_side_by_side"]["images_per_second"] / f[many]["images_per_second"] - 1
        ),
        "overhead_in_cpu_seconds": median(
            lambda f: f["ray_1"]["cpu_ms_per_image"] / f["loop"]["cpu_ms_per_image"] - 1
        ),
        "overhead_with_start_up": median(
            lambda f: f["ray_1"]["long"]["total_seconds"] / f["loop"]["total_seconds"] - 1
        ),
        "scaling": median(lambda f: f[many]["images_per_second"] / f["ray_1"]["images_per_second"]),
        "scaling_of_loops_side_by_side": median(
            lambda f: f["loops_side_by_side"]["images_per_second"] / f["loop"]["images_per_second"]
        ),
        "milliseconds_per_image": last["loop"]["milliseconds_per_image"],
        "cpu_ms_per_image_by_kind": last[many]["cpu_ms_per_image_by_kind"],
        "usage": last[many]["long"]["usage"],
        "object_store_mib": last[many]["long"]["object_store_mib"],
    }


def _markdown(config: BenchmarkReconstructConfig, results: Figures) -> str:
    rates, many = results["images_per_second"], config.actors
    lines = [
        "| stage, plain loop on one core | ms an image |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in results["milliseconds_per_image"].items()),
        "",
        f"| {config.images} images, start-up aside | images/s | |",
        "|---|---|---|",
        f"| plain loop, 1 core | {rates['loop']:.2f} | {results['loop_cpu_ms_per_image']:.0f} ms CPU an image |",
        f"| Ray, 1 core, 1 actor a stage | {rates['ray_1']:.2f} | overhead {100 * results['overhead']:.1f} %, in CPU "
        f"seconds {100 * results['overhead_in_cpu_seconds']:.1f} %, with start-up "
        f"{100 * results['overhead_with_start_up']:.0f} % |",
        f"| {many} plain loops side by side, {many} cores | {rates['loops_side_by_side']:.2f} | "
        f"{results['scaling_of_loops_side_by_side']:.2f} times one |",
        f"| Ray, {many} cores, {many} actors a stage | {rates[f'ray_{many}']:.2f} | "
        f"overhead {100 * results['overhead_on_all_cores']:.1f} %, {results['scaling']:.2f} times one actor |",
        "",
        f"| processes of the run with {many} actors | number | ms CPU an image | peak MiB of one |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {of['processes']} | {results['cpu_ms_per_image_by_kind'].get(kind, 0):.1f} "
            f"| {of['peak_mib']:.0f} |"
            for kind, of in results["usage"].items()
        ),
        f"| object store | | | {results['object_store_mib']:.0f} |",
    ]
    return "\n".join(lines)
