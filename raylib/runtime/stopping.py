"""How a job ends when it is told to: one sentence, nothing left running, a status that says why.

Imports only the standard library, so that a job can be stopped in one sentence while the rest is still imported.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_REASONS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "told to stop (SIGTERM)",
    signal.SIGHUP: "its terminal was closed (SIGHUP)",
}

_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_S = 8.0
"""Seconds that ending other processes may take."""

_watched: set[signal.Signals] = set()
_ending = threading.Event()


def watch_for_signals(sentence: str) -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end this process and all that it started, with status 128 + the signal.

    The signals are blocked and waited for in a thread: no handler that a library puts in place sees them, they
    arrive while native code runs, and a second one changes nothing. What is finished stays, since everything that a
    job writes appears whole or not at all. A signal that is ignored, as by `nohup`, stays so. Does nothing the second
    time and outside the main thread.

    Args:
        sentence: what to say after the reason, such as "the same command goes on from here".
    """
    if _watched or threading.current_thread() is not threading.main_thread():
        return
    _watched.update(s for s in _REASONS if signal.getsignal(s) != signal.SIG_IGN)
    for number in _watched:  # for the case that a library unblocks them
        signal.signal(number, lambda number, frame: _end(number, sentence))
    signal.pthread_sigmask(signal.SIG_BLOCK, _watched)
    # A blocked signal stays blocked in what is started. Forked children take this; `unblocked` is for the others.
    os.register_at_fork(after_in_child=_unblock)
    atexit.register(_let_end)
    threading.Thread(target=_wait, args=(sentence,), name="raylib-signals", daemon=True).start()


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _watched)


def _let_end() -> None:
    """Keeps the main thread, which may find its processes gone, from ending this one with a status of its own."""
    if _ending.is_set():
        time.sleep(2 * _LONGEST_S)


def _wait(sentence: str) -> None:
    _end(signal.sigwait(_watched), sentence)


def _end(number: int, sentence: str) -> None:
    end_all(f"{_REASONS[signal.Signals(number)]}; {sentence}", 128 + number)


def end_all(sentence: str, status: int) -> None:
    """Says a sentence, ends every process below this one, and this one with a status; does not return.

    Args:
        sentence: goes to standard error after the program's name.
        status: exit status.
    """
    _ending.set()
    # What the job has printed comes first; a full pipe, or a thread in the middle of a print, must not hold this up.
    _briefly(lambda: sys.stdout.flush())
    _briefly(lambda: _say(sentence))
    # Libraries would tell at length that their processes are gone.
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    _end_processes()
    os._exit(status)


def _briefly(call: Callable[[], object]) -> None:
    def quietly() -> None:
        with contextlib.suppress(Exception):
            call()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(1)


def _say(sentence: str) -> None:
    # A bar hides the cursor of a terminal and stands in the middle of a line.
    shown = "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""
    os.write(2, f"{shown}{sys.argv[0]}: {sentence}\n".encode(errors="backslashreplace"))


def _end_processes() -> None:
    """Ends every process that this one started, and those that they started, wherever they hang by now."""
    # Whose parent dies comes to us from now on, so that nobody is lost between looking and ending.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    end = time.monotonic() + _LONGEST_S
    while (found := _below()) and time.monotonic() < end:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        with contextlib.suppress(OSError):  # there is none left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _below() -> list[int]:
    """Returns the processes below this one that live, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = (entry / "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:  # grows meanwhile
        found += children.get(pid, ())
    return found
