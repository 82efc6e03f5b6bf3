"""Nodes that die and storage that fails while the job runs, and bytes that no one wrote on purpose."""

import io
import json
import pickle
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from fault_runs import Run, assert_complete, make_photographs, sha256_of_files
from PIL import Image
from s3_gate import RESET, SECRET, answer, gated_s3, options

from raylib.config import FaceSettings
from raylib.io.storage import Location
from raylib.reconstruction.detect_stage import AnalysisSettings, DetectStage
from raylib.reconstruction.listing import Inputs
from raylib.reconstruction.schema import STATUSES

HOG = ["--faces.detector", "hog"]


@pytest.fixture
def home():
    """A folder with a path short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="rs"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Weather:
    """A rule for the gate: refuses a share of requests, all during an outage, and writes below a prefix for ever."""

    def __init__(self, share: float):
        self.share, self.numbers = share, random.Random(5)
        self.refused = self.reset = 0
        self.outage_ends = 0.0
        self.read_only = False

    def __call__(self, head: str) -> bytes | None:
        draw = self.numbers.random()
        closed = self.read_only and head.startswith("PUT /results/out/faces/")
        if closed or time.monotonic() < self.outage_ends or draw < self.share / 2:
            self.reset += 1
            return RESET
        if draw < self.share:
            self.refused += 1
            return answer("503 Slow Down")
        return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_flaky_bucket_slows_the_job_and_loses_nothing(photographs, home, tmp_path):
    """Of all requests 5 % meet a 503 or a reset; first the output stays away, then nothing answers for 20 seconds."""
    make_photographs(tmp_path / "photos", photographs / "astronaut.png", 20)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    runs = []
    with gated_s3("flaky", "results") as (gate, direct):
        for path in (tmp_path / "photos").iterdir():
            direct.pipe(f"flaky/{path.name}", path.read_bytes())
        gate.rule = weather = Weather(share=0.05)
        arguments = ["--input", "s3://flaky", "--output", "s3://results/out", "--images_per_shard", "2", *HOG]
        arguments += ["--storage_options", json.dumps(options(gate.url))]

        def parts() -> int:
            direct.invalidate_cache()
            return len(direct.glob("results/out/faces/*.parquet"))

        def wait_for_parts(count: int) -> None:
            deadline = time.monotonic() + 300
            while parts() < count and runs[-1].process.poll() is None:
                assert time.monotonic() < deadline, runs[-1].log.read_text()[-3000:]
                time.sleep(0.2)

        try:
            runs.append(Run(home / "a", [*arguments, "--storage_tries", "2"]))
            wait_for_parts(1)
            weather.read_only = True
            assert runs[-1].wait() == 1, runs[-1].log.read_text()[-3000:]
            last = runs[-1].log.read_text().strip().splitlines()[-1]
            assert "error: output 's3://results/out' cannot be written" in last
            assert (
                last.endswith("the same command goes on where this run stopped")
                and "Traceback" not in runs[-1].log.read_text()
            )
            kept = parts()
            assert 0 < kept < 11
            weather.read_only = False

            runs.append(Run(home / "b", arguments))
            wait_for_parts(kept + 1)
            weather.outage_ends = time.monotonic() + 20
            assert runs[-1].wait() == 0, runs[-1].log.read_text()[-3000:]
            assert weather.refused and weather.reset
            assert "are done already" in runs[-1].log.read_text()
        finally:
            for run in runs:
                run.end()
        direct.invalidate_cache()
        direct.get("results/out/", str(tmp_path / "out") + "/", recursive=True)
    statuses = assert_complete(tmp_path / "out", {f"s3://flaky/{p.name}" for p in (tmp_path / "photos").iterdir()})
    assert {uri for uri, status in statuses.items() if status != "ok"} == {"s3://flaky/broken.jpg"}
    for path in [*(tmp_path / "out").rglob("*"), *(run.log for run in runs)]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_dies_costs_no_image(photographs, home, tmp_path):
    """Three nodes; one of those without the driver is killed with its actors and what they held."""
    from ray.cluster_utils import Cluster

    make_photographs(tmp_path / "photos", photographs / "astronaut.png", 24)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "temp_dir": str(home / "c")},
    )
    try:
        victims = [cluster.add_node(num_cpus=2) for _ in range(2)]
        arguments = ["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), *HOG]
        arguments += ["--images_per_shard", "1", "--detect_actors", "3", "--reconstruct_actors", "3"]
        arguments += ["--cpus_per_actor", "0.6"]
        run = Run(home / "run", arguments, {"RAY_ADDRESS": cluster.address})
        try:
            deadline = time.monotonic() + 300
            while len(list((tmp_path / "out" / "faces").glob("*.parquet"))) < 4:
                assert run.process.poll() is None and time.monotonic() < deadline, run.log.read_text()[-3000:]
                time.sleep(0.05)
            cluster.remove_node(victims[0], allow_graceful=False)
            assert run.wait(600) == 0, run.log.read_text()[-3000:]
        finally:
            run.end()
    finally:
        cluster.shutdown()
    statuses = assert_complete(tmp_path / "out", {str(p) for p in (tmp_path / "photos").iterdir()})
    assert set(statuses.values()) == {"ok"}
    assert len(sha256_of_files(tmp_path / "out" / "meshes")) == 5 * 24


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_2000_mutations_of_photographs_are_2000_rows(photographs, tmp_path):
    """Flipped bits, cuts, repeats, foreign bytes and lies in headers, in each format."""
    numbers = np.random.default_rng(7)
    picture = Image.open(photographs / "astronaut.png").convert("RGB").crop((110, 0, 350, 240))
    originals = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        originals.append(buffer.getvalue())
    for n in range(2000):
        data = bytearray(originals[n % len(originals)])
        for _ in range(int(numbers.integers(1, 5))):
            place = int(numbers.integers(0, min(len(data), 64 if numbers.random() < 0.5 else len(data))))
            match int(numbers.integers(0, 5)):
                case 0:
                    data[place] ^= 1 << int(numbers.integers(0, 8))
                case 1:
                    data[place : place + 4] = numbers.bytes(4)
                case 2:
                    del data[max(place, 1) :]
                case 3:
                    data[place:place] = data[: int(numbers.integers(1, 200))]
                case 4:
                    data[place : place + 4] = b"\xff\xff\xff\x7f"
        (tmp_path / f"{n:04d}.bin").write_bytes(data)
    settings = AnalysisSettings(FaceSettings(detector="hog"), 4_000_000, 1024, 20.0, 2.0)
    stage = DetectStage(Inputs((Location(str(tmp_path)),)), settings)
    paths = sorted(str(p) for p in tmp_path.iterdir())
    analysed = [
        pickle.loads(image)
        for start in range(0, 2000, 50)
        for image in stage.analyse([(0, p) for p in paths[start : start + 50]])
    ]
    assert [image.uri for image in analysed] == paths
    for image in analysed:
        assert image.status in STATUSES and (image.status in ("ok", "no_face")) == (not image.error_message)
        assert image.sha256
    assert {"ok", "decode_error", "too_large"} <= {image.status for image in analysed}
