"""What the processes of a run take while it runs: CPU seconds, peak memory, Ray's object store. Linux only."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_SHORT_S = 0.1  # a process that took less was on its way to start another

KINDS = {
    "MapWorker(MapBatches(DetectStage)": "detecting actor",
    "MapWorker(MapBatches(MeshStage)": "meshing actor",
    "ray::": "other workers",
    "default_worker.py": "other workers",
    "gcs_server": "Ray's own",
    "raylet": "Ray's own",
    "ray/": "Ray's own",
}
"""What a process is, by a piece of its command line; the first that fits."""


@dataclass
class Usage:
    """What the processes of one kind took.

    Attributes:
        processes: how many did more than start another.
        cpu_seconds: of all of them.
        peak_mib: the largest resident memory of one, without the object store that it maps.
    """

    processes: int = 0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0


@dataclass
class _Seen:
    kind: str
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0


@dataclass
class ProcessTree:
    """Watches a process and all below it from a thread; a context.

    Attributes:
        root: the process's id; it counts as the driver.
        every_s: seconds between looks. What dies between two looks is counted as it was at the last.
        driver_mib: time of each look and the driver's resident memory then, without the object store.
        store_mib: the most memory that Ray's object store has had at any look.
    """

    root: int
    every_s: float = 0.25
    driver_mib: list[tuple[float, float]] = field(default_factory=list)
    store_mib: float = 0.0

    def __post_init__(self) -> None:
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessTree:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def usage(self) -> dict[str, Usage]:
        """Returns what each kind of process took."""
        by_kind: dict[str, Usage] = defaultdict(Usage)
        for seen in self._seen.values():
            of = by_kind[seen.kind]
            of.processes += seen.cpu_seconds >= _SHORT_S
            of.cpu_seconds += seen.cpu_seconds
            of.peak_mib = max(of.peak_mib, seen.peak_mib)
        return dict(by_kind)

    def _watch(self) -> None:
        while not self._ended.wait(self.every_s):
            self._look()

    def _look(self) -> None:
        stats = dict(_stats())
        kinds = {self.root: "driver"}
        below = [self.root]
        children: dict[int, list[int]] = defaultdict(list)
        for pid, values in stats.items():
            children[int(values[1])].append(pid)
        for parent in below:  # grows while it is gone through
            for pid in children[parent]:
                with contextlib.suppress(OSError):
                    kinds[pid] = _kind(pid, kinds[parent])
                    below.append(pid)
        for pid in below:
            with contextlib.suppress(OSError, KeyError):
                values = stats[pid]
                seen = self._seen.setdefault((pid, values[19]), _Seen(kinds[pid]))
                seen.kind = kinds[pid]  # Ray's workers take their titles when they are given work
                seen.cpu_seconds = (int(values[11]) + int(values[12])) / _TICKS
                mib = _resident_mib(pid)
                seen.peak_mib = max(seen.peak_mib, mib)
                if pid == self.root:
                    self.driver_mib.append((time.time(), mib))
                if kinds[pid] == "Ray's own":
                    self.store_mib = max(self.store_mib, _store_mib(pid))


@dataclass
class Pinned:
    """Calls `work(argument)` on certain cores only, and on a Ray of its own; sends what it returns.

    Attributes:
        work: importable function.
        cores: numbers of the cores, which what it starts inherits; None for all.
        argument: for `work`.
    """

    work: Callable[[Any], dict[str, Any]]
    cores: set[int] | None
    argument: Any

    def __call__(self, answer: Connection) -> None:
        """Does it; runs in a process of its own."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)
        os.environ["RAY_ADDRESS"] = "local"
        answer.send(self.work(self.argument))


def measured(calls: Sequence[Pinned]) -> list[dict[str, Any]]:
    """Runs calls side by side, each in a process of its own.

    Returns:
        The answer of each, with `total_seconds` (the start of its process included), `cpu_seconds`, `usage` by kind
        of process, `object_store_mib` and `driver_mib`.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    for call in calls:
        ours, theirs = context.Pipe()
        process = context.Process(target=call, args=(theirs,))
        process.start()
        theirs.close()
        tree = ProcessTree(process.pid or 0)
        tree.__enter__()
        started.append((process, ours, tree, time.perf_counter()))
    answers = []
    for process, ours, tree, start in started:
        answer: dict[str, Any] = ours.recv()
        total_seconds = time.perf_counter() - start
        tree.__exit__(None, None, None)
        process.join()
        usage = {kind: asdict(of) for kind, of in tree.usage().items()}
        answers.append(
            {
                "total_seconds": total_seconds,
                "cpu_seconds": sum(of["cpu_seconds"] for of in usage.values()),
                "usage": usage,
                "object_store_mib": tree.store_mib,
                "driver_mib": tree.driver_mib,
                **answer,
            }
        )
    return answers


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Yields each process and the fields of its stat file after the name."""
    for name in os.listdir(_PROC):  # noqa: PTH208 - a few hundred names, several times a second
        if name.isdigit():
            with contextlib.suppress(OSError):
                yield int(name), (_PROC / name / "stat").read_text().rpartition(")")[2].split()


def _kind(pid: int, parent: str) -> str:
    line = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    if "multiprocessing.resource_tracker" in line:
        return "multiprocessing's trackers"
    if parent.endswith(("actor", "child")):  # a child that isolates native code
        return parent.replace("actor", "child")
    return next((kind for piece, kind in KINDS.items() if piece in line), parent)


def _resident_mib(pid: int) -> float:
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssShmem"))}
    return (int(kib.get("VmRSS", 0)) - int(kib.get("RssShmem", 0))) / 1024


def _store_mib(pid: int) -> float:
    """Returns the memory of the object store's files that a process holds open."""
    files: dict[int, int] = {}
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            if "plasma" in os.readlink(descriptor):  # noqa: PTH115 - the name only, which no file has any more
                info = descriptor.stat()
                files[info.st_ino] = info.st_blocks * 512
    return sum(files.values()) / 2**20
