"""How far a run is: a bar on a terminal, a line every so often in a log, also while nothing gets done."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from raylib.config import FAILED
from raylib.runtime.progress import say

_MIN_RATE_SECONDS = 2.0  # a rate over less says nothing
_RECENT = 200  # shards over which the present rate is taken


class Clock:
    """Calls a function every so often, in a thread of its own; a context.

    Args:
        tick: what is called; its errors end the clock.
        every_s: seconds between calls.
    """

    def __init__(self, tick: Callable[[], None], every_s: float):
        self._tick, self._every_s = tick, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raylib-clock", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._tick()

    def __enter__(self) -> Clock:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()


class Announced(Clock):
    """Says every so often what is still being done and for how long; a context.

    Args:
        console: where to.
        what: what is done, such as "listing the input".
        every_s: seconds between lines.
    """

    def __init__(self, console: Console, what: str, every_s: float):
        start = time.monotonic()
        super().__init__(lambda: say(console, f"{what} for {time.monotonic() - start:.0f} s"), every_s)


class RunProgress:
    """Counts what is done and shows it; a context.

    Args:
        console: where to.
        every_s: seconds between lines where the console is no terminal.
        waiting_for: returns in words what is waited for, or nothing.
    """

    def __init__(self, console: Console, every_s: float, waiting_for: Callable[[], str] = lambda: ""):
        self._console, self._every_s, self._waiting_for = console, every_s, waiting_for
        self.total: int | None = None
        self.images = 0
        self._counts: Counter[str] = Counter()
        self._faces = 0
        # Time and images at the end of shards; the first shard's end is where the start-up is over.
        self._first: tuple[float, int] | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self._said = time.monotonic()
        self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console)
        self._task = self._bar.add_task("images: starting", total=None)
        self._lock = threading.Lock()
        # A terminal sees more often what a run waits for; a log looks four times as often as it is due.
        self._clock = Clock(self._tick, min(every_s / 4, 5.0))

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar.start()
        self._clock.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.__exit__(kind, error, trace)
        if self._console.is_terminal:
            self._bar.stop()

    def add(self, counts: Counter[str], faces: int) -> None:
        """Adds a finished shard: images by status, and faces."""
        with self._lock:
            self._counts += counts
            self._faces += faces
            self.images += counts.total()
            now = (time.monotonic(), self.images)
            self._first = self._first or now
            self._recent.append(now)
        self._show()

    def _tick(self) -> None:
        due = time.monotonic() - self._said >= self._every_s
        if self._console.is_terminal or due:
            self._show(self._waiting_for())

    def _show(self, waiting_for: str = "") -> None:
        with self._lock:
            text = f"{self.line()}; {waiting_for}" if waiting_for else self.line()
            if self._console.is_terminal:
                self._bar.update(self._task, description=escape(text), completed=self.images, total=self.total)
            elif time.monotonic() - self._said >= self._every_s:
                self._said = time.monotonic()
                say(self._console, text)

    @property
    def rate(self) -> float | None:
        """Images a second from the first shard's end on, None before a second one."""
        return None if self._first is None else _rate(self._first, self._recent[-1])

    def line(self) -> str:
        """Returns the state in one line."""
        of = f" of {self.total}" if self.total else ""
        failed = {status: self._counts[status] for status in FAILED if self._counts[status]}
        why = f" ({', '.join(f'{n} {status}' for status, n in failed.items())})" if failed else ""
        text = f"{self.images}{of} images, {self._faces} faces, {sum(failed.values())} failed{why}"
        rate = _rate(self._recent[0], self._recent[-1]) if self._recent else None
        if rate is None:
            return text
        text += f", {rate:.1f} images/s"
        return f"{text}, {_duration((self.total - self.images) / rate)} left" if self.total else text


def _rate(start: tuple[float, int], end: tuple[float, int]) -> float | None:
    seconds = end[0] - start[0]
    return (end[1] - start[1]) / seconds if seconds >= _MIN_RATE_SECONDS else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
