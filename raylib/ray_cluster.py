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
        hook = {"worker_process_setup_hook": f"{__name__}.quiet_train"}
        runtime_env = hook if shown["log_to_driver"] else None
        options = {"num_cpus": cpus, "include_dashboard": False, "runtime_env": runtime_env, **shown}
        try:
            ray.init("local", **options)
        except Exception as error:  # Ray raises nothing narrower
            # After 30 seconds, which a busy machine may need. What was started ends with this process.
            if "timed out during startup" not in str(error):
                raise
            ray.init("local", **options)


def quiet_train() -> None:
    """Silences warnings of Ray Train that say nothing on one machine, in the worker that calls this.

    Its watcher of placement groups complains every second that there is no dashboard; its requests to an autoscaler,
    which is not there, print a traceback when a busy machine answers late.
    """
    for name in ("controller.placement_group_cleaner", "scaling_policy.autoscaling_coordinator_client"):
        logging.getLogger(f"ray.train.v2._internal.execution.{name}").setLevel(logging.ERROR)


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
