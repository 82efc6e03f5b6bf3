"""Reading that does not come: servers that never answer, trickle, reset, refuse for a while; pipes and dead disks."""

import contextlib
import itertools
import json
import os
import pickle
import socket
import socketserver
import threading
import time
from pathlib import Path

import pytest
from s3_gate import RESET, answer, gated_s3, options

from raylib.config import FaceSettings, ReconstructConfig
from raylib.errors import ConfigError, ImageError
from raylib.io.storage import Location, check_writable, open_input
from raylib.io.tries import ReadTimeoutError, within
from raylib.reconstruction import waiting
from raylib.reconstruction.detect_stage import AnalysisSettings, DetectStage
from raylib.reconstruction.folders import image_files
from raylib.reconstruction.listing import Inputs
from raylib.reconstruction.waiting import ReadWatch, Waits

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


class Server(socketserver.ThreadingTCPServer):
    """A web server whose first path element says how it behaves; counts requests by path."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Behaviour)
        self.asked: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Behaviour(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        head = self.request.recv(1 << 16).decode(errors="replace")
        if " " not in head:
            return
        path = head.split(" ")[1]
        asked = self.server.asked[path] = self.server.asked.get(path, 0) + 1
        with contextlib.suppress(OSError):
            match path.split("/")[1]:
                case "silent":
                    time.sleep(60)
                case "half":  # a head and a part of the body, then nothing
                    self.request.sendall(OK % 100 + b"x" * 50)
                    time.sleep(60)
                case "trickle":
                    self.request.sendall(OK % 1000)
                    for _ in range(600):
                        self.request.sendall(b"x")
                        time.sleep(0.1)
                case "reset":
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                case "storm" if asked <= 2:
                    self.request.sendall(answer("503 Slow Down"))
                case "short":
                    self.request.sendall(OK % 10 + b"x")
                case "unsized":
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ncontent")
                case code if code.isdigit():
                    self.request.sendall(answer(f"{code} Told So"))
                case _:
                    self.request.sendall(OK % 7 + b"content")


@pytest.fixture(scope="module")
def web():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(uri: str, **limits) -> bytes:
    location = Location(uri, **{"read_timeout_s": 3.0, "stall_timeout_s": 0.5, "tries": 3} | limits)
    return location.read_bytes(location.path)


@pytest.mark.parametrize("kind", ["silent", "half", "trickle"])
def test_what_does_not_come_is_given_up_within_the_limit_and_called_so(web, kind):
    start = time.monotonic()
    with pytest.raises(ReadTimeoutError) as caught:
        read(f"{web.url}/{kind}/x.jpg")
    assert time.monotonic() - start < 6 and caught.value.status == "timeout"
    assert "second" in caught.value.message


def test_our_tries_are_the_only_ones(web):
    with pytest.raises(OSError, match="503 Told So"):
        read(f"{web.url}/503/x.jpg")
    with pytest.raises(ReadTimeoutError, match=r"no answer within 0\.3 seconds, 3 times"):
        read(f"{web.url}/silent/once.jpg", stall_timeout_s=0.3, read_timeout_s=20)
    assert web.asked["/503/x.jpg"] == 3 and web.asked["/silent/once.jpg"] == 3


def test_a_storm_passes_and_answers_are_read_whole(web):
    assert read(f"{web.url}/storm/x.jpg") == b"content" and web.asked["/storm/x.jpg"] == 3
    assert read(f"{web.url}/unsized/x.jpg") == b"content"
    for kind, told in (("short", "not completed"), ("reset", "(?i)reset|disconnect")):
        with pytest.raises(Exception, match=told):
            read(f"{web.url}/{kind}/x.jpg", tries=2)


@pytest.mark.parametrize(
    ("code", "kind"), [(404, FileNotFoundError), (410, FileNotFoundError), (403, PermissionError), (418, ValueError)]
)
def test_refusals_are_told_at_once_by_their_name(web, code, kind):
    with pytest.raises(kind, match=f"{code} Told So"):
        read(f"{web.url}/{code}/x.jpg")
    assert web.asked[f"/{code}/x.jpg"] == 1


def test_too_large_is_known_from_the_head(web):
    with pytest.raises(ImageError, match="the file has 7 bytes, more than 6"):
        location = Location(f"{web.url}/fine/x.jpg")
        location.read_bytes(location.path, 6)


@pytest.mark.slow
def test_an_input_or_output_that_does_not_answer_is_one_sentence(web, tmp_path):
    limits = {"read_timeout_s": 2.0, "stall_timeout_s": 0.5}
    with socket.socket() as held, contextlib.ExitStack() as stack:
        held.bind(("127.0.0.1", 0))  # bound, but not listening
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for check, place in (
            (open_input, Location(f"{web.url}/silent/folder", **limits)),
            (open_input, Location(f"{nobody}/folder")),
            (open_input, Location("s3://photos/x", options(nobody))),
            (open_input, Location("s3://photos/x", options(mute), **limits)),
            (check_writable, Location("s3://photos/x", options(nobody))),
        ):
            start = time.monotonic()
            with pytest.raises(ConfigError) as caught:
                check(place)
            assert time.monotonic() - start < 10 and "\n" not in str(caught.value), place


@pytest.mark.slow
def test_s3_is_tried_by_us_alone_and_given_up_within_the_limit():
    with gated_s3("slow") as (gate, direct):
        direct.pipe_file("slow/x.jpg", b"content")
        place = Location("s3://slow", options(gate.url), 3, 4.0, 0.7)
        assert place.read_bytes("slow/x.jpg") == b"content"
        heads = []
        gate.rule = lambda head: heads.append(head) or answer("503 Slow Down")
        with pytest.raises(OSError):
            place.read_bytes("slow/x.jpg")
        assert len(heads) == 3
        gate.rule = lambda head: time.sleep(30)
        told = "no answer within 0.7 seconds, 3 times"
        calls = (lambda: place.read_bytes("slow/x.jpg"), lambda: list(image_files(place)))
        for call, kind in zip(calls, (ReadTimeoutError, ConfigError), strict=True):
            start = time.monotonic()
            with pytest.raises(kind, match=told):
                call()
            assert time.monotonic() - start < 7
        gate.rule = lambda head: None
        assert place.read_bytes("slow/x.jpg") == b"content"


@pytest.mark.slow
def test_a_manifest_survives_a_storm_between_its_pieces():
    with gated_s3("lists") as (gate, direct):
        names = [f"s3://lists/{n:07d}.jpg" for n in range(120_000)]
        direct.pipe_file("lists/all.txt", "\n".join(names).encode())
        storm = itertools.cycle([answer("503 Slow Down"), None, None, RESET, None, None, None])
        gate.rule = lambda head: next(storm)
        inputs = Inputs((Location("s3://lists/all.txt", options(gate.url)),))
        assert [path for _, path in inputs.items()] == names


def test_a_call_that_never_ends_costs_its_limit_and_its_errors_come_through():
    start = time.monotonic()
    with pytest.raises(ReadTimeoutError, match="too late"):
        within(lambda: time.sleep(600), 0.3, "too late")
    assert time.monotonic() - start < 5
    with pytest.raises(KeyError, match="told"):
        within(lambda: {}["told"], 5, "")
    assert within(lambda: 7, 5, "") == 7


def test_a_shard_with_silent_servers_gives_rows_with_their_stage(web, tmp_path):
    (tmp_path / "list.txt").write_text(f"{web.url}/silent/a.jpg\n{web.url}/fine/b.jpg\n{web.url}/404/c.jpg\n")
    inputs = Inputs((Location(str(tmp_path / "list.txt"), {}, 3, 2.0, 0.5),))
    stage = DetectStage(inputs, AnalysisSettings(FaceSettings(detector="hog"), 10**7, 1024, 20.0))
    images = [pickle.loads(image) for image in stage.analyse(list(inputs.items()))]
    assert [(image.status, image.error_stage) for image in images] == [
        ("timeout", "read"),
        ("decode_error", "decode"),
        ("error", "read"),
    ]


def test_long_reads_are_told_by_name_or_by_number(monkeypatch):
    told = {}
    monkeypatch.setattr(waiting, "WORTH_TELLING_S", 0.2)
    monkeypatch.setattr(waiting, "_put", told.__setitem__)
    monkeypatch.setattr(waiting, "_values", lambda prefix: [v for k, v in told.items() if k.startswith(prefix)])
    watch, hidden = ReadWatch("run"), ReadWatch("secret", hide_names=True)
    assert waiting.waits("run").line() == ""
    with watch.reading("https://host/x.jpg"), hidden.reading("https://host/y.jpg"):
        time.sleep(0.6)
        shown, nameless = waiting.waits("run"), waiting.waits("secret")
    assert shown.line().startswith("waiting for https://host/x.jpg for ") and shown.longest_s < 3
    assert nameless.count == 1 and nameless.line().startswith("1 image is being read, the longest for ")
    assert b"host" not in told[next(key for key in told if key.startswith(b"secret"))]
    time.sleep(0.4)
    assert waiting.waits("run").line() == "" and json.loads(told[next(iter(told))])[1] == []
    assert Waits(3, 40.4, "b.jpg").line() == "3 images are being read, the longest for 40 s: b.jpg"


def test_limits_are_checked():
    for name in ("read_timeout_s", "stall_timeout_s"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            ReconstructConfig("a", "b", **{name: 0})


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        Location(str(tmp_path)).read_bytes(str(Path(tmp_path) / "x.jpg"))
