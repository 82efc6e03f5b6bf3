"""A job that is told to stop says one sentence, leaves nothing running and what is finished, and goes on later."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fault_runs import ROOT, Run, assert_complete, make_photographs, wait_for_parts, wait_for_workers

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SENTENCE = "what is finished is kept, and the same command"


def lines_after_stop(run: Run, number: signal.Signals, times: int = 1) -> list[str]:
    """Stops a run, asserts how it ended, and returns what it said from then on."""
    said = len(run.log.read_text())
    for _ in range(times):
        run.process.send_signal(number)
        time.sleep(0.1)
    start = time.monotonic()
    assert run.wait(30) == STATUS[number], run.log.read_text()[-3000:]
    assert time.monotonic() - start < 10
    deadline = time.monotonic() + 5
    while run.below():
        assert time.monotonic() < deadline, run.below()
        time.sleep(0.1)
    return run.log.read_text()[said:].splitlines()


@pytest.fixture
def home():
    """A folder with a path short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="rs"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_job_leaves_what_is_finished_and_nothing_running(photographs, home, tmp_path):
    """Stopped while Ray starts, in the middle, and by an impatient user; the same command then ends it."""
    make_photographs(tmp_path / "photos", photographs / "astronaut.png", 8)
    out = tmp_path / "out"
    arguments = ["--input", str(tmp_path / "photos"), "--output", str(out), "--faces.detector", "hog"]
    arguments += ["--images_per_shard", "1", "--write_report", "false"]
    runs = []
    try:
        runs.append(Run(home / "a", arguments))
        wait_for_workers(runs[-1], "gcs_server")
        (line,) = lines_after_stop(runs[-1], signal.SIGTERM)
        assert line.endswith(f"told to stop (SIGTERM); {SENTENCE} goes on from there")
        runs.append(Run(home / "b", arguments))
        assert wait_for_parts(out, 2, runs[-1])
        (line,) = lines_after_stop(runs[-1], signal.SIGINT, times=3)
        assert line.endswith(f"interrupted; {SENTENCE} goes on from there")
        kept = {p.name: p.read_bytes() for p in (out / "faces").iterdir()}
        assert 2 <= len(kept) < 8
        runs.append(Run(home / "c", arguments))
        assert runs[-1].wait() == 0, runs[-1].log.read_text()[-3000:]
        assert {name: (out / "faces" / name).read_bytes() for name in kept} == kept
        assert_complete(out, {str(p) for p in (tmp_path / "photos").iterdir()})
    finally:
        for run in runs:
            run.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("job", ["reconstruct", "train_unet", "evaluate", "benchmark", "report"])
def test_a_job_can_be_stopped_from_its_first_imports_on(job, number, tmp_path):
    """The pipe that the configuration comes from holds each job before it begins its work."""
    pipe = tmp_path / "c.yaml"
    os.mkfifo(pipe)
    word = {"evaluate": ["shape"], "benchmark": ["render"]}.get(job, [])
    process = subprocess.Popen(
        [sys.executable, f"jobs/{job}.py", *word, "--config", str(pipe)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests may run under nohup
    )
    try:
        with pipe.open("w"):  # opens when the job reads it
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == STATUS[number]
    assert out == "" and err.count("\n") == 1 and SENTENCE in err


CHILDREN = """
import subprocess, sys
from raylib.runtime.stopping import watch_for_signals
watch_for_signals("that was all")
child = "import os, signal, subprocess, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)];" \
    "print(os.getpid(), subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
subprocess.run([sys.executable, "-c", child])
"""


def test_whatever_a_job_started_ends_with_it_and_its_end_changes_no_status():
    process = subprocess.Popen(
        [sys.executable, "-c", CHILDREN],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    below = [int(word) for word in process.stdout.readline().split()]
    assert len(below) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert process.stderr.read().endswith("told to stop (SIGTERM); that was all\n")
    for pid in below:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_ignored_signal_stays_ignored():
    code = (
        "from raylib.runtime.stopping import watch_for_signals; "
        "import time; watch_for_signals('x'); print(1, flush=True);"
    )
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", code + "time.sleep(1.5)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0
