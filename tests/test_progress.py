"""Progress says what is done, what failed and when it ends."""

import io
from collections import Counter

import pytest
from rich.console import Console

from raylib.runtime import progress as loops
from raylib.runtime import run_progress as progress
from raylib.runtime.progress import watched
from raylib.runtime.run_progress import RunProgress


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_so_often(clock):
    out = io.StringIO()
    with RunProgress(Console(file=out, width=200), every_s=30) as shown:
        shown.total = 1000
        for _ in range(10):
            clock[0] += 10
            shown.add(Counter(ok=15, no_face=1, timeout=3, error=1), faces=17)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1] == (
        "180 of 1000 images, 153 faces, 36 failed (27 timeout, 9 error), 2.0 images/s, 6 min 50 s left"
    )
    assert shown.rate == pytest.approx(2.0) and shown.images == 200


def test_without_a_total_or_a_second_shard_nothing_is_promised(clock):
    shown = RunProgress(Console(file=io.StringIO()), every_s=30)
    shown.add(Counter(ok=2), faces=2)
    assert shown.rate is None and shown.line() == "2 images, 2 faces, 0 failed"
    clock[0] += 1  # too short to say
    shown.add(Counter(ok=3), faces=3)
    assert shown.rate is None
    clock[0] += 1
    shown.add(Counter(ok=3), faces=3)
    assert shown.line() == "8 images, 8 faces, 0 failed, 3.0 images/s"


def test_time_left_follows_the_present_rate_not_the_whole_night(clock):
    shown = RunProgress(Console(file=io.StringIO()), every_s=1e9)
    shown.total = 100_000
    for _ in range(300):
        clock[0] += 100
        shown.add(Counter(ok=10), faces=10)
    for _ in range(300):
        clock[0] += 1
        shown.add(Counter(ok=10), faces=10)
    assert shown.line().endswith("10.0 images/s, 2 h 36 min left")


def test_a_loop_in_a_log_says_how_far_it_is_but_not_at_once(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(loops.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    seen = []
    for item in watched(range(10), "[b]faces[/b] judged", console=Console(file=out, width=20), every_s=4):
        seen.append(item)
        now[0] += 1.5
    assert seen == list(range(10))
    assert out.getvalue() == "".join(f"[b]faces[/b] judged: {n} of 10\n" for n in (2, 5, 8))


def test_a_loop_on_a_terminal_has_a_bar_that_goes_when_it_is_done():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, _environ={})
    for _ in watched(iter([3, 4]), "faces", total=7, console=console, size=lambda item: item):
        pass
    text = out.getvalue()
    assert "faces" in text and "7/7" in text and text.endswith("\x1b[2K")  # the line is emptied
    silent = io.StringIO()
    assert list(watched([1, 2], "short", console=Console(file=silent))) == [1, 2] and not silent.getvalue()
