"""Threads for kernels that release the GIL, safe under fork and inside Ray workers.

Numba's own parallel layers do not survive this project: OpenMP dies in a forked child and the work queue aborts when
two threads enter it. A kernel here is a plain function of `(part, parts, ...)` that does every `parts`-th piece of
the work from `part` on; the parts run on a pool that belongs to the process that made it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

KERNEL = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Options of every Numba kernel: cached on disk, free of the GIL, IEEE division, nothing reassociated or fused."""

_pools: dict[int, ThreadPoolExecutor] = {}
"""The pool of each process id: a forked child finds its parent's entry, whose threads it lacks, and makes its own."""


def _pool() -> ThreadPoolExecutor:
    # No lock: a lock that another thread holds during a fork stays locked for ever in the child. An executor has no
    # threads before its first task, so that the loser of a race on `setdefault` costs nothing.
    pid = os.getpid()
    pool = _pools.get(pid)
    return pool if pool is not None else _pools.setdefault(pid, ThreadPoolExecutor(os.cpu_count() or 1))


def run_parts(kernel: Callable[..., None], parts: int, *args: Any) -> None:
    """Calls `kernel(part, parts, *args)` for each part, the first in the calling thread, and waits for all.

    Args:
        kernel: function compiled with `nogil=True` whose parts write to disjoint memory.
        parts: number of parts; 1 starts no thread.
        args: the kernel's further arguments.
    """
    if parts == 1:
        kernel(0, 1, *args)
        return
    futures = [_pool().submit(kernel, part, parts, *args) for part in range(1, parts)]
    try:
        kernel(0, parts, *args)
    finally:
        for future in futures:
            future.result()


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
