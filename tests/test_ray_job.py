"""The job as users start it: on a cluster that `ray start` made, directly and through `ray job submit`."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Environment and addresses of a cluster of one node with four logical CPUs and token authentication."""
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_TOKEN": "0" * 32}
    env |= {"PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)
    gcs, dashboard = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={gcs}"]
    command += [
        f"--dashboard-port={dashboard}",
        f"--temp-dir=/tmp/r{os.getpid()}",
        f"--ray-client-server-port={free_port()}",
        # The port that an agent takes by default is held by any other Ray on the machine, such as the other tests'.
        f"--dashboard-agent-listen-port={free_port()}",
    ]
    log = (home / "head.log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        address = f"127.0.0.1:{gcs}"
        # The job server comes up last.
        jobs = [BIN / "ray", "job", "list", f"--address=http://127.0.0.1:{dashboard}"]
        while subprocess.run(jobs, env=env, capture_output=True, check=False).returncode != 0:
            assert process.poll() is None and time.monotonic() < deadline, (home / "head.log").read_text()[-2000:]
            time.sleep(1)
        yield env, address, f"http://127.0.0.1:{dashboard}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(8)  # left alone it waits half a minute for workers that are gone
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(f"/tmp/r{os.getpid()}", ignore_errors=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, photographs) -> Path:
    folder = tmp_path_factory.mktemp("in")
    shutil.copy(photographs / "astronaut.png", folder)
    (folder / "broken.jpg").write_bytes(b"x")
    return folder


@pytest.mark.slow
def test_submitted_to_a_cluster(head, inputs, tmp_path):
    env, _, dashboard = head
    command = [BIN / "ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    command += ["python", "jobs/reconstruct.py", "--input", inputs, "--output", tmp_path, "--faces.detector", "hog"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500, check=False)
        # A node's agent, which takes jobs, comes up some seconds after the server; Ray asks to try again.
        if "try again later" not in done.stdout + done.stderr or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "run.json").read_text())["images_by_status"] == {"ok": 1, "decode_error": 1}
    command[command.index(tmp_path)] = "out"
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode != 0 and "output is 'out', a relative path" in done.stdout + done.stderr


@pytest.mark.slow
def test_run_against_a_started_cluster(head, inputs, tmp_path):
    env, address, _ = head
    # Relative paths are seen from where the job is started, not from where Ray was.
    shutil.copytree(inputs, tmp_path / "in")
    command = [sys.executable, ROOT / "jobs/reconstruct.py", "--config", ROOT / "configs/reconstruct.yaml"]
    command += ["--input", "in", "--output", "./out", "--faces.detector", "hog"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=env | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["images_by_status"] == {"ok": 1, "decode_error": 1}
    assert record["config"]["input"] == str(tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert "broken.jpg" in done.stdout and "2 images" in done.stdout
