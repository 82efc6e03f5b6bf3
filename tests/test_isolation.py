"""A child that crashes, hangs or raises costs one call and no other."""

import ctypes
import os
import signal
import time

import pytest

from raylib.reconstruction.isolation import ChildCrashError, ChildTimeoutError, IsolatedWorker


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
