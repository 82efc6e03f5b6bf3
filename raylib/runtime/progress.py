"""What a job says while it runs: lines as they are, and how far a loop is, as a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

QUIET_S = 2.0
"""Seconds over which nothing is said in a log."""


def say(console: Console, line: str) -> None:
    """Prints a line as it is: not wrapped, not coloured, brackets and all."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def watched(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    console: Console | None = None,
    every_s: float = 30.0,
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """Yields the items and shows how many of them are done.

    Args:
        items: what is gone through.
        what: what they are, such as "faces judged".
        total: how many there are in all; the length of `items`, where they have one, or unknown.
        console: where to; standard error by default, since standard output may be a table that goes to a file.
        every_s: seconds between lines where the console is no terminal.
        size: for how many an item counts.
    """
    console = console or Console(stderr=True)
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    of = "" if total is None else f" of {total}"
    done, due = 0, time.monotonic() + QUIET_S
    with bar:
        for item in items:
            if not console.is_terminal and time.monotonic() >= due:
                due = time.monotonic() + every_s
                say(console, f"{what}: {done}{of}")
            yield item
            done += size(item)
            bar.update(task, completed=done)
