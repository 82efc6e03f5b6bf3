"""The local Ray of a job."""

import subprocess
import sys

import pytest

STARTS = """
import ray
from raylib.ray_cluster import join_ray

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
