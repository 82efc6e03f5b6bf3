"""What the processes of a run wait for: each tells it where the driver finds it, Ray's store of keys."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

WORTH_TELLING_S = 5.0
"""Reads that are shorter are never told of, so that a run over good storage sends nothing."""

_NAMESPACE = b"raylib-waiting"


@dataclass(frozen=True)
class Waits:
    """Reads that take long.

    Attributes:
        count: how many.
        longest_s: seconds since the first of them began.
        name: what the longest reads; empty where names are hidden.
    """

    count: int
    longest_s: float
    name: str

    def line(self) -> str:
        """Returns the same in words, empty if there are none."""
        if not self.count:
            return ""
        if self.count == 1 and self.name:
            return f"waiting for {self.name} for {self.longest_s:.0f} s"
        images = "1 image is" if self.count == 1 else f"{self.count} images are"
        name = f": {self.name}" if self.name else ""
        return f"{images} being read, the longest for {self.longest_s:.0f} s{name}"


class ReadWatch:
    """Knows which reads of this process are under way and tells the driver of those that take long.

    Args:
        run: the run's mark; empty to tell nobody.
        hide_names: tell no names.
    """

    def __init__(self, run: str, hide_names: bool = False):
        self._key = f"{run}/{os.uname().nodename}/{os.getpid()}/{id(self)}".encode()
        self._tells, self._hide_names = bool(run), hide_names
        self._reads: dict[int, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """While the context is open `name` is being read."""
        mark = threading.get_ident()
        with self._lock:
            self._reads[mark] = (time.monotonic(), "" if self._hide_names else name)
            if self._tells and self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="raylib-waits", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._reads[mark]

    def long_reads(self) -> list[tuple[float, str]]:
        """Returns seconds and name of the reads that are worth telling."""
        now = time.monotonic()
        with self._lock:
            seen = [(now - start, name) for start, name in self._reads.values()]
        return sorted((wait for wait in seen if wait[0] >= WORTH_TELLING_S), reverse=True)

    def _tell(self) -> None:
        told = False
        while True:
            time.sleep(WORTH_TELLING_S / 2)
            reads = self.long_reads()
            if reads or told:
                with contextlib.suppress(Exception):  # nothing depends on it
                    _put(self._key, json.dumps([time.time(), reads]).encode())
                    told = bool(reads)


def waits(run: str) -> Waits:
    """Returns what the processes of a run wait for, in the driver; nothing where Ray does not run or answer."""
    now, reads = time.time(), []
    with contextlib.suppress(Exception):
        for value in _values(run.encode()):
            told, long_reads = json.loads(value)
            if now - told < 4 * WORTH_TELLING_S:  # else its process is gone
                reads += [(seconds + max(now - told, 0.0), name) for seconds, name in long_reads]
    longest_s, name = max(reads, default=(0.0, ""))
    return Waits(len(reads), longest_s, name)


def forget(run: str) -> None:
    """Removes what the processes of a run told."""
    if _ray_runs():
        from ray.experimental.internal_kv import _internal_kv_del

        with contextlib.suppress(Exception):
            _internal_kv_del(run.encode(), del_by_prefix=True, namespace=_NAMESPACE)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _put(key: bytes, value: bytes) -> None:
    if _ray_runs():
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(key, value, overwrite=True, namespace=_NAMESPACE)


def _values(prefix: bytes) -> list[bytes]:
    if not _ray_runs():
        return []
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    keys = _internal_kv_list(prefix, namespace=_NAMESPACE)
    return [value for key in keys if (value := _internal_kv_get(key, namespace=_NAMESPACE))]
