"""What the tests share: photographs that installed packages carry, data where it lies beside the checkout, Ray."""

import importlib.util
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

# As the jobs have it (see runtime/command.py); read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(config, items):
    """Side by side, files whose slow tests have the most time go first, lest one be left to one process at last."""
    if not hasattr(config, "workerinput"):
        return
    limits = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            limits[item.path] += limit.args[0] if limit else float(config.getini("timeout"))
    items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(scope="session")
def shared_data():
    """Function that returns a folder of development data, or skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"development data {name} are not beside the checkout")
        return path

    return find


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Folder with NASA's portrait of an astronaut and other photographs (scikit-image's)."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="session")
def astronaut(photographs) -> np.ndarray:
    from raylib.io.images import decode

    return decode((photographs / "astronaut.png").read_bytes(), 10**7).rgb


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests, with more logical CPUs than cores: Ray's failures are hangs for want of a CPU."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
