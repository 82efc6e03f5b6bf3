"""Native code on foreign input, in a child process that may crash or hang without harm."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Generic, TypeVar

from raylib.errors import RaylibError

A = TypeVar("A")
R = TypeVar("R")

_worker: Callable[[Any], Any] | None = None  # of the child; set by its initialiser


class ChildCrashError(RaylibError):
    """The child process died."""


class ChildTimeoutError(RaylibError):
    """The child process took longer than its limit."""


class ChildMemoryError(RaylibError):
    """The child process wanted more memory than its limit."""


def failure(error: Exception) -> tuple[str, str]:
    """Returns a row's status and message for what a call of an `IsolatedWorker` raised."""
    kinds: dict[type[Exception], str] = {
        ChildTimeoutError: "timeout",
        ChildMemoryError: "out_of_memory",
        ChildCrashError: "native_crash",
    }
    status = kinds.get(type(error))
    return (status, str(error)) if status else ("error", f"{type(error).__name__}: {error}".strip(": "))


def _start(make: Callable[[], Callable[[Any], Any]], memory_bytes: int) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = make()
    if memory_bytes:
        # What libraries and models take already does not count.
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (own + memory_bytes, hard))


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed parent cannot, and the pool's pipe would stay open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(argument: Any) -> Any:
    assert _worker is not None
    return _worker(argument)


class IsolatedWorker(Generic[A, R]):
    """Calls a function in one child process, which is started anew after a crash or a timeout.

    Args:
        make: picklable; called once in each child, returns the function that the child then runs.
        memory_bytes: address space that a call may add to what the child takes when it is ready; 0 for no limit.
        start_timeout_s: longest time that a child may take to start.
    """

    def __init__(self, make: Callable[[], Callable[[A], R]], memory_bytes: int = 0, start_timeout_s: float = 300.0):
        self._make = make
        self._memory_bytes = memory_bytes
        self._start_timeout_s = start_timeout_s
        self._pool: ProcessPoolExecutor | None = None
        self._ready: Future[None] | None = None

    def __call__(self, argument: A, timeout_s: float) -> R:
        """Returns what the function returns, or raises what it raises.

        Raises:
            ChildCrashError: the child died.
            ChildTimeoutError: no result after `timeout_s` seconds.
            ChildMemoryError: the call needed more than `memory_bytes`.
        """
        pool = self._ready_pool()
        try:
            return pool.submit(_call, argument).result(timeout=timeout_s)
        except BrokenProcessPool:
            self.close()
            raise ChildCrashError("native code ended its process") from None
        except MemoryError:
            self.close()  # what is left of its heap may be in pieces
            limit = f"{self._memory_bytes / 2**30:g} GiB" if self._memory_bytes else "the machine has"
            raise ChildMemoryError(f"it needs more memory than {limit}") from None
        except TimeoutError:
            self.close()
            raise ChildTimeoutError(f"no result after {timeout_s:g} seconds") from None

    def start(self) -> None:
        """Starts a child if there is none, without waiting until it is ready."""
        if self._pool is None:
            # spawn: a fork would copy Ray's threads and locks.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                1, context, initializer=_start, initargs=(self._make, self._memory_bytes)
            )
            self._ready = self._pool.submit(_do_nothing)

    def _ready_pool(self) -> ProcessPoolExecutor:
        self.start()
        assert self._pool is not None
        if self._ready is not None:
            # The time limit is for the work, not for the imports of a fresh child.
            try:
                self._ready.result(timeout=self._start_timeout_s)
            except BrokenProcessPool:
                self.close()
                raise ChildCrashError("its process died while it started") from None
            except Exception:
                self.close()
                raise
            self._ready = None
        return self._pool

    def close(self) -> None:
        """Ends the child at once."""
        if self._pool is None:
            return
        self._ready = None
        processes = list((self._pool._processes or {}).values())
        for process in processes:
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _do_nothing() -> None:
    """Returns when the child's initialiser has run."""
