"""Training jobs in processes of their own, to be watched and killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def descendants(pid: int) -> list[int]:
    """Returns the processes that a process started, and those that they started (Linux)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent ...; the name may hold anything, parentheses too.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:  # grows while it is walked
        family += [child for child, parent in parents.items() if parent == member]
    return family[1:]


def command_line(pid: int) -> str:
    """Returns a process's command line, or what it calls itself; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def reporters(text: str) -> set[str]:
    """Returns the process ids of the workers that said how far the training is."""
    return set(re.findall(r"RayTrainWorker pid=(\d+)[^)]*\) epoch", text))


def epoch_of(text: str) -> int:
    """Returns the last epoch that the job said it finished."""
    return max((int(number) for number in re.findall(r"epoch (\d+)\.0 of", text)), default=0)


class Driver:
    """A training job in a process of its own, its output in a file, started in the file's folder.

    Args:
        script: name of the job's file.
        words: its options.
        log: file for what it prints.
        wrapper: command that runs the job's command.
    """

    def __init__(self, script: str, words: Sequence[str], log: Path, wrapper: Sequence[str] = ()):
        self.log = log
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_DEDUP_LOGS": "0",
            "RAY_ADDRESS": "local",
        }
        command = [*wrapper, sys.executable, str(ROOT / "jobs" / script), *words]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
            )

    def wait_for(self, found: Callable[[str], bool], seconds: float = 240) -> str:
        """Returns the output as soon as something is found in it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.log.read_text()
            if found(text):
                return text
            if self.process.poll() is not None:
                raise AssertionError(f"the job ended with {self.process.returncode}: {text[-3000:]}")
            time.sleep(0.1)
        raise AssertionError(f"not seen within {seconds} s: {self.log.read_text()[-3000:]}")

    def kill_a_worker(self, number: int) -> None:
        """Kills one of the workers, the first or the last started, a moment after an epoch has begun."""
        workers = sorted(pid for pid in descendants(self.process.pid) if "RayTrainWorker" in command_line(pid))
        time.sleep(0.3)
        os.kill(workers[number], signal.SIGKILL)

    def stop(self) -> None:
        """Kills the job as a power cut would, and the Ray processes that it started."""
        family = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
