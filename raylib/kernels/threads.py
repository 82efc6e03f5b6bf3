"""Threads for kernels that release the GIL, safe under fork and inside Ray workers.

Numba's own parallel layers do not survive this project: OpenMP dies in a forked child and the work queue aborts when
two threads enter it. A kernel here is a plain function of `(part, parts, ...)` that does every `parts`-th piece of
the work from `part` on; helpers that belong to the process that made them take parts (see
`raylib.kernels.fork_join`).
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

import numpy as np
import torch

from raylib.kernels.fork_join import ASLEEP, CALLED, IDLE, KERNEL, MAILBOX_SIZE, STATE, entry_of, serve

__all__ = ["KERNEL", "parts_for", "parts_for_images", "run_parts", "thread_count"]

_CACHE_LINE = 64
_VERTS_WORTH_A_THREAD = 4096


class _Helper:
    """A thread that takes parts of kernels, first made asleep."""

    def __init__(self) -> None:
        memory = np.zeros(MAILBOX_SIZE + _CACHE_LINE // 8, np.int64)
        start = -memory.ctypes.data % _CACHE_LINE // 8  # a cache line of its own
        self._mailbox = memory[start : start + MAILBOX_SIZE]
        self._mailbox[STATE] = ASLEEP
        self.address = self._mailbox.ctypes.data
        self._stopping = False
        self._alarm = Lock()
        self._alarm.acquire()
        self._thread = Thread(target=self._serve, name="raylib-kernels", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            self._alarm.acquire()
            if self._stopping:
                return
            serve(self.address)

    def rouse(self) -> None:
        """Wakes the helper if it sleeps, keeps it awake if not; only for those who have taken it."""
        self._mailbox[CALLED] = 1
        if self._mailbox[STATE] == ASLEEP:
            self._mailbox[STATE] = IDLE
            self._alarm.release()

    def stop(self) -> None:
        """Ends the thread once it has nothing to do."""
        self._stopping = True
        while self._thread.is_alive():
            self.rouse()
            self._thread.join(0.001)


class _Helpers:
    """The helpers of one process, as many as it has processors beside the one that calls."""

    def __init__(self) -> None:
        self._to_be_made = deque(range(1, os.cpu_count() or 1))
        self._idle: deque[_Helper] = deque()

    def take(self, wanted: int) -> list[_Helper]:
        """Returns up to so many helpers, all awake; those used last first, which may still be awake."""
        taken: list[_Helper] = []
        while len(taken) < wanted:
            try:
                helper = self._idle.pop()
            except IndexError:
                try:
                    self._to_be_made.pop()
                    helper = _Helper()
                except (IndexError, RuntimeError):  # all are busy, or the system has no thread to spare
                    break
            taken.append(helper)
            helper.rouse()
        return taken

    def give_back(self, helpers: list[_Helper]) -> None:
        self._idle.extend(reversed(helpers))

    def stop(self) -> None:
        while self._idle:
            self._idle.pop().stop()


_helpers: dict[int, _Helpers] = {}
"""The helpers of each process id: a forked child finds its parent's, whose threads it lacks, and makes its own."""

_entries: dict[Callable[..., None], Callable[..., int]] = {}


@atexit.register
def _stop_helpers() -> None:
    # A thread that comes back from native code while the interpreter ends would be cut off in the middle of it.
    if os.getpid() in _helpers:
        _helpers[os.getpid()].stop()


def run_parts(kernel: Callable[..., None], parts: int, *args: Any) -> None:
    """Calls `kernel(part, parts, *args)` for each part, the first in the calling thread, and waits for all.

    Args:
        kernel: function compiled with `nogil=True` whose parts write to disjoint memory.
        parts: number of parts; 1 starts no thread.
        args: the kernel's further arguments.

    Raises:
        MemoryError: a part failed; kernels fail for nothing else.
    """
    if parts == 1:
        kernel(0, 1, *args)
        return
    entry = _entries.get(kernel)
    if entry is None:
        entry = _entries.setdefault(kernel, entry_of(kernel))
    # No lock: a lock that another thread holds during a fork stays locked for ever in the child. Helpers have no
    # threads before they are taken, so that the loser of a race on `setdefault` costs nothing.
    helpers = _helpers.get(os.getpid()) or _helpers.setdefault(os.getpid(), _Helpers())
    taken = helpers.take(parts - 1)
    try:
        failed = entry(parts, np.array([helper.address for helper in taken], np.int64), *args)
    finally:
        helpers.give_back(taken)
    if failed:
        raise MemoryError(f"a part of {kernel.__name__} failed, most likely for lack of memory")


def thread_count() -> int:
    """Returns the number of parts that kernels split their work into: torch's own number of threads."""
    return torch.get_num_threads()


def parts_for(items: int, worth: int) -> int:
    """Returns into how many parts to split light work: one for each `worth` items, at most torch's threads.

    Args:
        items: pieces of work.
        worth: pieces that take as long as waking a thread, some 50 microseconds.
    """
    return max(1, min(thread_count(), items // worth))


def parts_for_images(n_images: int, verts: int) -> int:
    """Returns into how many parts to split light work on the vertices of a batch: whole images each.

    Args:
        n_images: images of the batch.
        verts: vertices of each.
    """
    return max(1, min(n_images, parts_for(n_images * verts, _VERTS_WORTH_A_THREAD)))
