"""Where Ray runs: a cluster that is there already, or one for this process alone."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from raylib.errors import ConfigError
from raylib.runtime.ray_address import ANSWER_S, REMEDY, check_reachable, cluster_address

_LONGEST_SOCKET_PATH = 107
"""Bytes that a Unix socket's path may have."""

_LONGEST_BELOW = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""Bytes that Ray appends to its folder for the longest of its sockets' paths."""


def join_ray(worker_output: bool = False) -> None:
    """Joins the cluster that RAY_ADDRESS or a local `ray start` names, or starts one for this process alone.

    RAY_ADDRESS=local asks for the latter. Does nothing where Ray is running in this process.

    Args:
        worker_output: show what the workers print, such as the progress of a training.

    Raises:
        ConfigError: the cluster cannot be joined, or Ray cannot be started here.
    """
    shown: dict[str, Any] = {"log_to_driver": worker_output, "logging_level": "warning" if worker_output else "error"}
    if not ray.is_initialized():
        with Console(stderr=True).status("starting Ray"):  # seconds; says nothing where there is no terminal
            _start(shown)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def check_ray() -> None:
    """Checks within seconds that `join_ray` has something to join or a place to start Ray; changes nothing.

    Raises:
        ConfigError: it has not.
    """
    if ray.is_initialized():
        return
    address = cluster_address()
    if address is None:
        _temporary_folder()
    else:
        _require_cluster(address)


def _require_cluster(address: str) -> None:
    """Checks that a cluster answers at an address, and lets us in; Ray itself would try for a quarter of an hour.

    Raises:
        ConfigError: it does not.
    """
    check_reachable(address)
    import grpc  # type: ignore[import-untyped]
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not _has_token():
        raise ConfigError(
            f"the Ray cluster at {address} is to be joined with a token, but there is none: {_TOKEN_REMEDY}"
        )
    try:
        with init_grpc_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            answer = NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=ANSWER_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise ConfigError(f"the Ray cluster at {address} does not accept our token: {_TOKEN_REMEDY}") from None
        raise ConfigError(f"what answers at {address} is no Ray cluster's head; {REMEDY}") from None
    if answer.ray_version != ray.__version__:
        raise ConfigError(
            f"the cluster at {address} runs Ray {answer.ray_version}, but Ray {ray.__version__} is installed here; "
            "both must have the same version"
        )


_TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the cluster's head, "
    "or RAY_AUTH_TOKEN_PATH to a file with it; RAY_ADDRESS=local starts a Ray of the job's own"
)


def _has_token() -> bool:
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except Exception:  # such as a RAY_AUTH_TOKEN_PATH that is not there
        return False


def _start(shown: dict[str, Any]) -> None:
    address = cluster_address()
    if address is not None:
        _require_cluster(address)
        try:
            ray.init(address=address, **shown)
        except Exception as error:
            raise ConfigError(f"the Ray cluster at {address} cannot be joined: {_first_line(error)}") from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # A token of its own: Ray would write one to a home that may be read-only, and that others may have changed.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Two logical CPUs at least, since stages run side by side and Ray's own tasks need one beside workers.
    cpus = max(2, os.cpu_count() or 1)
    hook = {"worker_process_setup_hook": f"{__name__}.quiet_train"}
    runtime_env = hook if shown["log_to_driver"] else None
    options = {"num_cpus": cpus, "include_dashboard": False, "runtime_env": runtime_env, **shown}
    options["_temp_dir"] = str(_temporary_folder())
    try:
        ray.init("local", **options)
    except Exception as error:  # Ray raises nothing narrower
        # After 30 seconds, which a busy machine may need. What was started ends with this process.
        if "timed out during startup" not in str(error):
            raise ConfigError(f"Ray cannot be started: {_first_line(error)}") from error
        try:
            ray.init("local", **options)
        except Exception as again:
            raise ConfigError(f"Ray cannot be started: {_first_line(again)}") from again


def _first_line(error: Exception) -> str:
    """Returns an error in one sentence."""
    kind = type(error).__name__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), kind)


def _temporary_folder() -> Path:
    """Returns a folder for Ray's sessions that is ours to write and whose path is short enough for its sockets.

    Raises:
        ConfigError: there is none.
    """
    longest = _LONGEST_SOCKET_PATH - _LONGEST_BELOW
    for folder in _temporary_folders():
        if len(os.fsencode(folder)) <= longest and _is_ours_to_write(folder):
            return folder
    raise ConfigError(
        f"Ray finds no folder for its sockets: set RAY_TMPDIR to one that can be written, with a path of at most "
        f"{longest - len('/ray')} bytes"
    )


def _temporary_folders() -> Iterator[Path]:
    yield Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp").absolute() / "ray"
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        yield Path(base).absolute() / f"ray-{os.getuid()}"


def _is_ours_to_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"room")
            probe.flush()
    except OSError:
        return False
    return True


def quiet_train() -> None:
    """Silences warnings of Ray Train that say nothing on one machine, in the worker that calls this.

    Its watcher of placement groups complains every second that there is no dashboard; its requests to an autoscaler,
    which is not there, print a traceback when a busy machine answers late.
    """
    for name in ("controller.placement_group_cleaner", "scaling_policy.autoscaling_coordinator_client"):
        logging.getLogger(f"ray.train.v2._internal.execution.{name}").setLevel(logging.ERROR)
