"""Where a result comes from: what every run writes beside its results."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from raylib import __version__


def git_commit() -> str | None:
    """Returns the commit of the checkout that this code runs from, None where it is installed otherwise."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Returns commit, versions and machine, ready for JSON.

    Args:
        packages: distributions whose versions matter to the result.
    """
    return {
        "git_commit": git_commit(),
        "versions": {"physface": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
    }


def sha256(path: Path) -> str:
    """Returns the hash of a file's bytes as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
