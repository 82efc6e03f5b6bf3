"""Which Ray cluster a job joins, if any, and whether somebody is there; known without importing Ray."""

from __future__ import annotations

import os
import socket
import urllib.parse
from pathlib import Path

from raylib.errors import ConfigError

ANSWER_S = 5.0
"""Seconds that a cluster may take to answer; one on a busy machine takes a fraction of one."""

_FORMS = "HOST:PORT of a cluster's head, such as 10.0.0.5:6379, or local for a Ray of the job's own"

REMEDY = f"start one with `ray start --head`, or set RAY_ADDRESS to {_FORMS}"


def cluster_address() -> str | None:
    """Returns the cluster to join as HOST:PORT, None to start one.

    Raises:
        ConfigError: RAY_ADDRESS has another form.
    """
    named = os.environ.get("RAY_ADDRESS", "").strip()
    if named == "local":
        return None
    if named in ("", "auto"):
        noted = _noted_address()
        if noted is None and named:
            raise ConfigError("RAY_ADDRESS is 'auto', but no Ray that `ray start` made runs on this machine")
        return noted
    if named.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS is {named!r}, which is where jobs are submitted: submit this one with `ray job submit "
            f"--address {named} --working-dir . -- python ...`, or give {_FORMS}"
        )
    if named.startswith("ray://"):
        host = urllib.parse.urlsplit(named).hostname or "HOST"
        raise ConfigError(
            f"RAY_ADDRESS is {named!r}, but jobs do not run through Ray Client: submit this one with `ray job submit "
            f"--address http://{host}:8265 --working-dir . -- python ...`, or give {_FORMS}"
        )
    _host_and_port(named)
    return named


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise ConfigError(f"RAY_ADDRESS is {address!r}, expected {_FORMS}")
    return host.strip("[]"), int(port)


def check_reachable(address: str | None) -> None:
    """Checks that something listens at an address; Ray itself would try for a quarter of an hour.

    Raises:
        ConfigError: nothing does.
    """
    if address is None:
        return
    try:
        socket.create_connection(_host_and_port(address), timeout=ANSWER_S).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise ConfigError(f"no Ray cluster can be reached at {address} ({reason}); {REMEDY}") from error


def _noted_address() -> str | None:
    """Returns where the cluster that `ray start` noted on this machine still runs, None if there is none.

    Ray itself would wait for minutes for one that was killed and could not remove its note.
    """
    note = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    try:
        address = note.read_text("utf-8").strip()
        with socket.create_connection(_host_and_port(address), timeout=2):
            return address
    except (OSError, ValueError, ConfigError):
        return None
