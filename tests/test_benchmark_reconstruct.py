"""What the benchmarks of the reconstruction job say of processes, ratios and the driver's memory."""

import time

import pytest

from raylib.benchmark import bucket, reconstruct
from raylib.benchmark.processes import Pinned, measured
from raylib.config import BenchmarkBucketConfig, BenchmarkReconstructConfig


def busy(seconds: float) -> dict:
    """Takes CPU seconds and 200 MiB; runs in a process of its own."""
    held = bytes(200 << 20)
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass
    time.sleep(1)  # to be seen
    return {"held": len(held)}


@pytest.mark.slow
def test_a_process_is_seen_with_its_time_and_memory():
    short, long = measured([Pinned(busy, {0}, 0.2), Pinned(busy, None, 1.5)])
    assert short["held"] == long["held"] == 200 << 20
    # What it takes until it is busy depends on the machine.
    assert long["usage"]["driver"]["cpu_seconds"] > 1.4 and long["cpu_seconds"] > short["cpu_seconds"] + 0.5
    for of in (short, long):
        assert of["usage"]["driver"]["processes"] == 1 and of["object_store_mib"] == 0
        assert 200 < of["usage"]["driver"]["peak_mib"] < 800
        assert max(mib for _, mib in of["driver_mib"]) == of["usage"]["driver"]["peak_mib"]


def test_ratios_are_medians_of_the_rounds_own():
    def figures(slow: float) -> dict:
        usage = {"driver": {"processes": 1, "cpu_seconds": 2.0, "peak_mib": 100.0}}
        run = {"total_seconds": 60.0 * slow, "usage": usage, "object_store_mib": 32.0}
        ray = {"cpu_ms_per_image": 220.0, "cpu_ms_per_image_by_kind": {"driver": 4.0}, "long": run}
        return {
            "loop": {
                "images_per_second": 5.0 / slow,
                "cpu_ms_per_image": 200.0,
                "total_seconds": 50.0 * slow,
                "milliseconds_per_image": {"detect": 30.0},
            },
            "loops_side_by_side": {"images_per_second": 9.5 / slow},
            "ray_1": ray | {"images_per_second": 4.7 / slow},
            "ray_2": ray | {"images_per_second": 9.0 / slow},
        }

    config = BenchmarkReconstructConfig(rounds=3)
    results = reconstruct._results(config, [figures(1.0), figures(3.0), figures(1.5)])
    assert results["overhead"] == pytest.approx(5 / 4.7 - 1)
    assert results["overhead_on_all_cores"] == pytest.approx(9.5 / 9 - 1)
    assert results["overhead_in_cpu_seconds"] == pytest.approx(0.1)
    assert results["overhead_with_start_up"] == pytest.approx(0.2)
    assert results["scaling"] == pytest.approx(9 / 4.7)
    assert results["scaling_of_loops_side_by_side"] == pytest.approx(1.9)
    assert results["images_per_second"]["loop"] == pytest.approx(5 / 1.5)
    text = reconstruct._markdown(config, results)
    assert "overhead 6.4 %, in CPU seconds 10.0 %, with start-up 20 %" in text
    assert "overhead 5.6 %, 1.91 times one actor" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_driver_does_not_grow_with_the_bucket(tmp_path):
    """The whole job over 20,000 empty images, read one by one from a server."""
    config = BenchmarkBucketConfig(str(tmp_path / "work"), "", images=20_000)
    figures = bucket.measure(config)
    assert figures["images_by_status"] == {"decode_error": 20_000}
    assert [row["images"] for row in figures["driver"]] == [2000, 5000, 10_000, 15_000, 20_000]
    assert figures["grown_mib"] < 16
