"""Parts of kernels on helpers that come late, not at all, or to many callers at once."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numba import njit

from raylib.kernels import fork_join
from raylib.kernels.threads import KERNEL, _helpers, run_parts

N = 1000


@njit(**KERNEL)
def _square(part, parts, numbers, squares, by):
    for i in range(part, numbers.shape[0], parts):
        squares[i] = numbers[i] * numbers[i]
        by[i] = part


@njit(**KERNEL)
def _negate(part, parts, numbers, negated, by):
    for i in range(part, numbers.shape[0], parts):
        negated[i] = -numbers[i]
        by[i] = part


@njit(**KERNEL)
def _take_memory(part, parts, sizes, sums):
    sums[part] = np.ones(sizes[part], np.uint8).sum()


@njit(**KERNEL)
def _mark_after(part, parts, steps, marks):
    x = 1.0
    for _ in range(steps[part]):
        x = np.sin(x)
    marks[part] = x + 2.0


def _arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.arange(N, dtype=np.float64), np.full(N, np.nan), np.full(N, -1)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_every_part_is_done_once_however_many_processors_there_are(parts):
    numbers, squares, by = _arrays()
    run_parts(_square, parts, numbers, squares, by)
    np.testing.assert_array_equal(squares, numbers**2)
    np.testing.assert_array_equal(by, np.arange(N) % parts)


def test_many_callers_at_once_get_their_own_results():
    wrong = []

    def call(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            numbers, results, by = rng.normal(size=rng.integers(1, 50)), np.empty(50), np.empty(50)
            squaring = rng.random() < 0.5
            run_parts(_square if squaring else _negate, int(rng.integers(2, 6)), numbers, results, by)
            expected = numbers**2 if squaring else -numbers
            if not np.array_equal(results[: len(numbers)], expected):
                wrong.append((seed, expected, results))

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("gap_s", [0.0, 2e-4, 3e-4, 5e-3])
def test_helpers_that_spin_fall_asleep_or_sleep_miss_no_part(gap_s):
    numbers, squares, by = _arrays()
    for _ in range(200):
        squares[:] = np.nan
        run_parts(_square, 3, numbers, squares, by)
        assert np.array_equal(squares, numbers**2)
        until = time.perf_counter() + gap_s
        while time.perf_counter() < until:
            pass


def test_the_caller_does_what_no_helper_begins():
    numbers, squares, by = _arrays()
    run_parts(_square, 2, numbers, squares, by)  # makes the entry
    entry = fork_join.entry_of(_square)
    for state in (fork_join.IDLE, fork_join.ASLEEP):
        mailboxes = np.zeros((2, fork_join.MAILBOX_SIZE), np.int64)
        mailboxes[:, fork_join.STATE] = state
        squares[:] = np.nan
        assert entry(3, np.array([m.ctypes.data for m in mailboxes]), numbers, squares, by) == 0
        np.testing.assert_array_equal(squares, numbers**2)
        assert (mailboxes[:, fork_join.STATE] == state).all()


def test_a_slow_helper_is_waited_for():
    for slow in (0, 1):
        steps, marks = np.ones(2, np.int64), np.zeros(2)
        steps[slow] = 3_000_000
        for _ in range(3):
            marks[:] = 0
            run_parts(_mark_after, 2, steps, marks)
            assert (marks > 1).all()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_part_without_memory_is_an_error_and_the_next_call_works(failing):
    sizes, sums = np.full(3, 10), np.zeros(3, np.int64)
    sizes[failing] = 1 << 60
    with pytest.raises(MemoryError, match="_take_memory"):
        run_parts(_take_memory, 3, sizes, sums)
    assert (np.delete(sums, failing) == 10).all()
    sizes[failing] = 10
    run_parts(_take_memory, 3, sizes, sums)
    assert (sums == 10).all()


def test_helpers_are_fewer_than_the_processors():
    numbers, squares, by = _arrays()
    run_parts(_square, 64, numbers, squares, by)
    helpers = _helpers[os.getpid()]
    assert len(helpers._idle) + len(helpers._to_be_made) == (os.cpu_count() or 1) - 1


_PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
import numpy as np
import test_parallel as t
from raylib.kernels import threads

numbers, squares, by = t._arrays()
_, negated, _ = t._arrays()
threads.run_parts(t._square, 2, numbers, squares, by)
threads.run_parts(t._negate, 2, numbers, negated, by)
assert np.array_equal(squares, numbers**2) and np.array_equal(negated, -numbers)
print([sum(e.stats.cache_misses.values()) for e in threads._entries.values()])
time.sleep({sleep})
"""


@pytest.mark.parametrize("sleep", [0.0, 0.05], ids=["awake", "asleep"])
def test_a_new_process_compiles_nothing_again_and_ends(request, sleep):
    numbers, results, by = _arrays()
    for kernel in (_square, _negate):  # two entries of one signature, which must not be taken for each other
        run_parts(kernel, 2, numbers, results, by)
    program = _PROGRAM.format(tests=str(request.path.parent), sleep=sleep)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0, 0]"
