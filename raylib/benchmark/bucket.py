"""Measures the driver's memory while the job goes through a bucket of very many images."""

from __future__ import annotations

import multiprocessing
import statistics
from bisect import bisect
from pathlib import Path
from typing import Any

from raylib.benchmark.empty_bucket import BUCKET, server
from raylib.benchmark.processes import Pinned, measured
from raylib.benchmark.reconstruct import ray_job
from raylib.benchmark.record import check_new, outputs, write_record
from raylib.config import BenchmarkBucketConfig, ReconstructConfig

_MARKS = (0.1, 0.25, 0.5, 0.75, 1.0)


def run(config: BenchmarkBucketConfig) -> int:
    """Prints and writes the figures; returns the exit status."""
    check_new(config.work)
    figures = measure(config)
    lines = ["| images done | driver, MiB |", "|---|---|"]
    lines += [f"| {row['images']:,} | {row['driver_mib']:.0f} |" for row in figures["driver"]]
    print("\n".join([*lines, "", f"grown by {figures['grown_mib']:.1f} MiB"]))
    write_record(config.output, config, figures)
    return 0


def plan(config: BenchmarkBucketConfig) -> list[str]:
    """Returns what a run would do, in lines; a `ConfigError` where it could not."""
    check_new(config.work)
    return [
        f"would serve a bucket of {config.images} empty images and let the job go through it",
        f"would keep the job's output in {config.work}",
        *outputs(config.output),
    ]


def measure(config: BenchmarkBucketConfig) -> dict[str, Any]:
    """Returns the driver's memory over the images done, how much it grew, and what all processes took."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    bucket = context.Process(target=_serve, args=(config.images, theirs), daemon=True)
    bucket.start()
    try:
        job = ReconstructConfig(
            f"s3://{BUCKET}",
            f"{config.work}/results",
            images_per_shard=config.images_per_shard,
            storage_options={
                "anon": True,
                "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{ours.recv()}"},
            },
        )
        (took,) = measured([Pinned(ray_job, None, job)])
    finally:
        bucket.kill()
        bucket.join()
    samples: list[tuple[float, float]] = took.pop("driver_mib")
    # Parts are written one after the other; their times tell how many images were done at a sample's.
    written = sorted(p.stat().st_mtime for p in (Path(job.output) / "faces").iterdir())
    memory = [
        (config.images * bisect(written, at) / len(written), mib)
        for at, mib in samples
        if written[0] <= at <= written[-1]
    ]
    rows = []
    for mark in _MARKS:
        near = sorted(memory, key=lambda one: abs(one[0] - mark * config.images))[: max(3, len(memory) // 20)]
        rows.append({"images": round(mark * config.images), "driver_mib": statistics.median(m for _, m in near)})
    return {
        "driver": rows,
        "grown_mib": rows[-1]["driver_mib"] - rows[0]["driver_mib"],
        "peak_driver_mib": max(mib for _, mib in samples),
        **took,
    }


def _serve(count: int, port: Any) -> None:
    running = server(count)
    port.send(running.server_address[1])
    running.serve_forever()
