"""A child that crashes, hangs or raises costs one call and no other."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylib.runtime.child_process import ChildCrashError, ChildMemoryError, ChildTimeoutError, IsolatedWorker


def make():
    calls = []

    def work(order: str):
        calls.append(order)
        if order == "abort":
            os.abort()
        if order == "segfault":
            ctypes.string_at(0)
        if order == "exit":
            os._exit(0)
        if order == "hang":
            time.sleep(600)
        if order == "raise":
            raise ValueError("no good")
        return os.getpid(), len(calls)

    return work


@pytest.fixture
def worker():
    worker = IsolatedWorker(make)
    yield worker
    worker.close()


def test_one_child_serves_many_calls(worker):
    first, second = worker("a", 60), worker("b", 60)
    assert first[0] == second[0] != os.getpid() and second[1] == 2


@pytest.mark.parametrize("order", ["abort", "segfault", "exit"])
def test_a_crash_is_reported_and_the_next_call_works(worker, order):
    before, _ = worker("a", 60)
    with pytest.raises(ChildCrashError):
        worker(order, 60)
    after, calls = worker("a", 60)
    assert after != before and calls == 1


def test_a_hang_ends_at_the_limit_and_the_child_is_gone(worker):
    pid, _ = worker("a", 60)
    start = time.monotonic()
    with pytest.raises(ChildTimeoutError, match=r"1\.5 seconds"):
        worker("hang", 1.5)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker("a", 60)[1] == 1


def test_exceptions_come_through_and_the_child_lives_on(worker):
    pid, _ = worker("a", 60)
    with pytest.raises(ValueError, match="no good"):
        worker("raise", 60)
    assert worker("a", 60)[0] == pid


def test_a_child_killed_from_outside_is_replaced(worker):
    pid, _ = worker("a", 60)
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(ChildCrashError):
        worker("a", 60)
    assert worker("a", 60)[0] != pid


def test_a_child_killed_while_it_starts_is_a_crash_and_is_replaced(worker):
    worker.start()
    (child,) = worker._pool._processes
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ChildCrashError, match="while it started"):
        worker("a", 60)
    assert worker("a", 60)[0] != child


def hungry():
    def work(mib: int):
        return len(bytearray(mib << 20)), os.getpid()

    return work


def test_a_call_that_wants_too_much_memory_fails_alone():
    worker = IsolatedWorker(hungry, memory_bytes=512 << 20)
    try:
        size, pid = worker(64, 60)
        assert size == 64 << 20
        with pytest.raises(ChildMemoryError, match=r"0\.5 GiB"):
            worker(1024, 60)
        size, after = worker(256, 60)
        assert size == 256 << 20 and after != pid
    finally:
        worker.close()


def test_a_child_ends_with_its_killed_parent(tmp_path):
    """The pool's own child would wait for work for ever."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from raylib.runtime.child_process import IsolatedWorker\n"
        "def make():\n    return lambda _: os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    print(IsolatedWorker(make)(0, 60), flush=True)\n    time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
