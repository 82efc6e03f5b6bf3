"""The local Ray of a job."""

import os
import socket
import subprocess
import sys

import pytest

from raylib.errors import ConfigError
from raylib.kernels import fork_join
from raylib.runtime import ray_cluster

STARTS = """
import ray
from raylib.runtime.ray_cluster import join_ray

init, tries = ray.init, []

def busy_at_first(*args, **options):
    tries.append(args)
    if len(tries) <= {failures}:
        raise Exception("{message}")
    return init(*args, **options)

ray.init = busy_at_first
try:
    join_ray()
finally:
    print(len(tries), ray.is_initialized())
"""
LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


def starts(failures: int, message: str) -> subprocess.CompletedProcess:
    code = STARTS.format(failures=failures, message=message)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"RAY_ADDRESS": "local"}
    )


@pytest.mark.slow
def test_a_node_that_comes_up_late_is_started_once_more():
    done = starts(1, LATE)
    assert done.returncode == 0 and done.stdout.split() == ["2", "True"], done.stderr[-2000:]


def test_twice_late_and_other_failures_are_told():
    for failures, message, tries in ((2, LATE, "2"), (1, "no space left", "1")):
        done = starts(failures, message)
        assert done.returncode == 1 and done.stdout.split() == [tries, "False"]
        assert message in done.stderr


def test_what_answers_but_is_no_ray_is_told_within_seconds(monkeypatch):
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)  # other tests' Ray may run in this process
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConfigError, match="is no Ray cluster's head"):
            ray_cluster.check_ray()


def test_a_folder_for_sockets_is_short_and_ours_to_write(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 75)))
    folder = ray_cluster._temporary_folder()
    assert len(os.fsencode(folder)) < 40 and folder.is_dir()
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    assert ray_cluster._temporary_folder().is_dir()
    monkeypatch.setattr(ray_cluster, "_is_ours_to_write", lambda folder: False)
    with pytest.raises(ConfigError, match="RAY_TMPDIR to one that can be written"):
        ray_cluster._temporary_folder()


def test_kernels_are_kept_somewhere_or_compiled_anew(monkeypatch, tmp_path):
    kept = dict(fork_join.KERNEL)
    monkeypatch.setattr(fork_join.numba_config, "CACHE_DIR", "/proc/none")
    monkeypatch.setattr(fork_join.tempfile, "gettempdir", lambda: str(tmp_path))
    fork_join._cache_of_last_resort()
    folder = tmp_path / f"physface-kernels-{os.getuid()}"
    assert str(folder) == fork_join.numba_config.CACHE_DIR and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # others may have put something there that would be executed
    monkeypatch.setattr(fork_join, "KERNEL", kept)
    monkeypatch.setattr(fork_join.numba_config, "CACHE_DIR", "/proc/none")
    fork_join._cache_of_last_resort()
    assert fork_join.numba_config.CACHE_DIR == "/proc/none" and kept["cache"] is False
