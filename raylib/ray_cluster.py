"""Where Ray runs: a cluster that is there already, or one for this process alone."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import ray
from rich.console import Console


def join_ray(worker_output: bool = False) -> None:
    """Joins the cluster that RAY_ADDRESS or a local `ray start` names, or starts one for this process alone.

    RAY_ADDRESS=local asks for the latter. Does nothing where Ray is running in this process.

    Args:
        worker_output: show what the workers print, such as the progress of a training.
    """
    shown: dict[str, Any] = {"log_to_driver": worker_output, "logging_level": "warning" if worker_output else "error"}
    if not ray.is_initialized():
        with Console(stderr=True).status("starting Ray"):  # seconds; says nothing where there is no terminal
            _start(shown)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _start(shown: dict[str, Any]) -> None:
    named = os.environ.get("RAY_ADDRESS")
    if named != "local" and (named or _local_cluster_answers()):
        ray.init(address="auto", **shown)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Two logical CPUs at least, since stages run side by side and Ray's own tasks need one beside workers.
        cpus = max(2, os.cpu_count() or 1)
        ray.init("local", num_cpus=cpus, include_dashboard=False, **shown)


def _local_cluster_answers() -> bool:
    """Tells whether the cluster that `ray start` noted on this machine still runs.

    Ray itself would wait for minutes for one that was killed and could not remove its note.
    """
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        host, port = note.read_text().strip().rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
