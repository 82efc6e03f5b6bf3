"""Native code on foreign input, in a child process that may crash or hang without harm."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from raylib.errors import RaylibError

A = TypeVar("A")
R = TypeVar("R")

_worker: Callable[[Any], Any] | None = None  # of the child; set by its initialiser


class ChildCrashError(RaylibError):
    """The child process died."""


class ChildTimeoutError(RaylibError):
    """The child process took longer than its limit."""


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _worker
    _worker = make()


def _call(argument: Any) -> Any:
    assert _worker is not None
    return _worker(argument)


class IsolatedWorker(Generic[A, R]):
    """Calls a function in one child process, which is started anew after a crash or a timeout.

    Args:
        make: picklable; called once in each child, returns the function that the child then runs.
        start_timeout_s: longest time that a child may take to start.
    """

    def __init__(self, make: Callable[[], Callable[[A], R]], start_timeout_s: float = 300.0):
        self._make = make
        self._start_timeout_s = start_timeout_s
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, argument: A, timeout_s: float) -> R:
        """Returns what the function returns, or raises what it raises.

        Raises:
            ChildCrashError: the child died.
            ChildTimeoutError: no result after `timeout_s` seconds.
        """
        pool = self._running_pool()
        try:
            return pool.submit(_call, argument).result(timeout=timeout_s)
        except BrokenProcessPool:
            self.close()
            raise ChildCrashError("native code ended its process") from None
        except TimeoutError:
            self.close()
            raise ChildTimeoutError(f"no result after {timeout_s:g} seconds") from None

    def _running_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a fork would copy Ray's threads and locks.
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=(self._make,))
            self._pool = pool
            # The time limit is for the work, not for the imports of a fresh child.
            pool.submit(_ready).result(timeout=self._start_timeout_s)
        return self._pool

    def close(self) -> None:
        """Ends the child at once."""
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        for process in processes:
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _ready() -> None:
    """Returns when the child's initialiser has run."""
