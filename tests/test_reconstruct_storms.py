"""Nodes that die and storage that fails while the job runs, and bytes that no one wrote on purpose."""

import io
import json
import random
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fault_runs import Run, assert_complete, make_photographs, mesh_bytes
from PIL import Image

from raylib.config import FaceSettings
from raylib.reconstruction.analysis import AnalysisSettings, DetectStage
from raylib.reconstruction.listing import Inputs
from raylib.reconstruction.rows import STATUSES
from raylib.reconstruction.storage import Location

HOG = ["--faces.detector", "hog"]
SECRET = "a-secret-that-must-not-show"


@pytest.fixture
def home():
    """A folder with a path short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="rs"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Flaky(socketserver.ThreadingTCPServer):
    """A proxy before a server on loopback that refuses a share of connections' requests, and all during an outage."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: tuple[str, int], share: float):
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target, self.share, self.numbers = target, share, random.Random(5)
        self.refused = self.reset = self.requests = 0
        self.outage_ends = 0.0


class _Relay(socketserver.BaseRequestHandler):
    server: Flaky

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            back = threading.Thread(target=self._copy, args=(upstream, self.request), daemon=True)
            back.start()
            while data := self._received(self.request):
                if data.split(b" ", 1)[0] in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
                    self.server.requests += 1
                    draw = self.server.numbers.random()
                    if time.monotonic() < self.server.outage_ends or draw < self.server.share / 2:
                        self.server.reset += 1
                        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        return
                    if draw < self.server.share:
                        self.server.refused += 1
                        self.request.sendall(
                            b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                        return
                upstream.sendall(data)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass

    def _received(self, source: socket.socket) -> bytes:
        try:
            return source.recv(1 << 16)
        except OSError:
            return b""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_flaky_bucket_slows_the_job_and_loses_nothing(photographs, home, tmp_path):
    """Of all requests 5 % meet a 503 or a reset, and for 20 seconds all do."""
    from moto.server import ThreadedMotoServer

    make_photographs(tmp_path / "photos", photographs / "astronaut.png", 30)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Flaky(server.get_host_and_port(), share=0.05)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()

    def options(port: int) -> dict:
        return {"key": "access", "secret": SECRET, "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}

    direct = fsspec.filesystem("s3", **options(server.get_host_and_port()[1]))
    direct.mkdir("photos")
    direct.mkdir("results")
    for path in (tmp_path / "photos").iterdir():
        direct.pipe(f"photos/{path.name}", path.read_bytes())
    flaky = ["--storage_options", json.dumps(options(proxy.server_address[1]))]
    run = Run(
        home, ["--input", "s3://photos", "--output", "s3://results/out", "--images_per_shard", "2", *HOG, *flaky]
    )
    try:
        deadline = time.monotonic() + 300
        while not direct.exists("results/out/faces") and run.process.poll() is None:
            assert time.monotonic() < deadline, run.log.read_text()[-3000:]
            direct.invalidate_cache()
            time.sleep(0.2)
        proxy.outage_ends = time.monotonic() + 20
        assert run.wait() == 0, run.log.read_text()[-3000:]
        assert proxy.refused and proxy.reset
        assert SECRET not in run.log.read_text()
    finally:
        run.end()
        proxy.shutdown()
    direct.invalidate_cache()
    direct.get("results/out/", str(tmp_path / "out") + "/", recursive=True)
    server.stop()
    statuses = assert_complete(tmp_path / "out", {f"s3://photos/{p.name}" for p in (tmp_path / "photos").iterdir()})
    assert {uri for uri, status in statuses.items() if status != "ok"} == {"s3://photos/broken.jpg"}
    assert not any(SECRET.encode() in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_dies_costs_no_image(photographs, home, tmp_path):
    """Three nodes; one of those without the driver is killed with its actors and what they held."""
    from ray.cluster_utils import Cluster

    make_photographs(tmp_path / "photos", photographs / "astronaut.png", 40)
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
    assert len(mesh_bytes(tmp_path / "out")) == 5 * 40


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
        image for start in range(0, 2000, 50) for image in stage.analyse([(0, p) for p in paths[start : start + 50]])
    ]
    assert [image.uri for image in analysed] == paths
    for image in analysed:
        assert image.status in STATUSES and (image.status in ("ok", "no_face")) == (not image.error_message)
        assert image.sha256
    assert {"ok", "decode_error", "too_large"} <= {image.status for image in analysed}
