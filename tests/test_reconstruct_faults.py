"""The job is killed in every way, started again, and ends as if nothing had been."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from fault_runs import (
    Run,
    assert_complete,
    make_photographs,
    parent_of,
    sha256_of_files,
    wait_for_parts,
    wait_for_workers,
)

IMAGES = 40
DETECTING, MESHING = "MapWorker(MapBatches(DetectStage)", "MapWorker(MapBatches(MeshStage)"
SETTINGS = ["--faces.detector", "hog", "--images_per_shard", "2"]


@pytest.fixture
def home():
    """A folder with a path short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="rf"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photographs) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    make_photographs(folder, photographs / "astronaut.png", IMAGES - 2)
    shutil.copy(photographs / "coffee.png", folder / "no face.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    """Mesh files of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed")
    home = Path(tempfile.mkdtemp(prefix="rf"))
    run = Run(home, ["--input", str(photos), "--output", str(output), *SETTINGS])
    try:
        assert run.wait() == 0, run.log.read_text()[-3000:]
        statuses = assert_complete(output, images(photos))
        assert sum(s == "ok" for s in statuses.values()) == IMAGES - 2
    finally:
        run.end()
        shutil.rmtree(home, ignore_errors=True)
    return sha256_of_files(output / "meshes")


def images(folder: Path) -> set[str]:
    return {str(p) for p in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_driver_killed_ten_times_ends_with_every_image_once(photos, undisturbed, home, tmp_path):
    """Each run goes on at once, while processes of the one before may still be at work.

    Half of the kills come at any time, most before anything is written; half as soon as there is more to lose.
    """
    moments = random.Random(8)
    arguments = ["--input", str(photos), "--output", str(tmp_path), *SETTINGS]
    runs = []
    kills = 0
    try:
        for n in range(10):
            runs.append(Run(home / str(n), arguments))
            done = len(list((tmp_path / "faces").glob("*.parquet")))
            if n % 2:
                time.sleep(moments.uniform(1, 15))
            elif wait_for_parts(tmp_path, done + 1, runs[-1]):
                time.sleep(moments.uniform(0, 0.4))
            else:
                break
            kills += runs[-1].process.poll() is None
            runs[-1].kill()
        assert kills >= 5
        runs.append(Run(home / "last", arguments))
        assert runs[-1].wait() == 0, runs[-1].log.read_text()[-3000:]
    finally:
        for run in runs:
            run.end()
    assert_complete(tmp_path, images(photos))
    assert sha256_of_files(tmp_path / "meshes") == undisturbed


@pytest.mark.slow
def test_killed_actors_and_children_cost_no_image(photos, undisturbed, home, tmp_path):
    run = Run(home, ["--input", str(photos), "--output", str(tmp_path), *SETTINGS])
    try:
        # Detection may be through with all images before the first part is there: nobody would be left to kill.
        meshing, *_ = wait_for_workers(run, MESHING)
        first, second, *_ = wait_for_workers(run, DETECTING, 2)
        child, *_ = [pid for pid in wait_for_workers(run, "spawn_main", 4) if parent_of(pid) == first]
        for victim in (child, second, meshing):
            os.kill(victim, signal.SIGKILL)
        assert run.wait() == 0, run.log.read_text()[-3000:]
    finally:
        run.end()
    statuses = assert_complete(tmp_path, images(photos))
    assert sum(s == "ok" for s in statuses.values()) == IMAGES - 2
    assert sha256_of_files(tmp_path / "meshes") == undisturbed


@pytest.mark.slow
def test_a_killed_actor_takes_its_child_with_it(photos, home, tmp_path):
    run = Run(home, ["--input", str(photos), "--output", str(tmp_path), *SETTINGS])
    try:
        actor, *_ = wait_for_workers(run, MESHING)
        children = [pid for pid in wait_for_workers(run, "spawn_main", 4) if parent_of(pid) == actor]
        assert children
        os.kill(actor, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        run.end()


@pytest.mark.slow
def test_images_that_abort_hang_or_eat_memory_cost_a_row_each(photos, home, tmp_path):
    """Beside them an empty file, one that is no picture, and one that is gone before it is read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted(photos.glob("good*"))[:12]:
        shutil.copy(path, folder)
    bad = {
        "aborts.png": (b"poison: abort", "native_crash"),
        "eats.png": (b"poison: eater", "out_of_memory"),
        "empty.png": (b"", "decode_error"),
        "hangs.png": (b"poison: hangs", "timeout"),
        "text.png": (b"no picture", "decode_error"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    expected = {str(folder / name): status for name, (_, status) in bad.items()}
    expected |= {str(p): "ok" for p in folder.glob("good*")} | {str(folder / "gone.png"): "error"}
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(sorted(expected)))
    arguments = ["--input", str(listed), "--output", str(tmp_path / "out"), "--image_timeout_s", "8"]
    arguments += ["--image_memory_gb", "1", "--max_failed_fraction", "0.2", *SETTINGS]
    run = Run(home, arguments)
    try:
        assert run.wait() == 1, run.log.read_text()[-3000:]
        assert "6 of 18 images failed" in run.log.read_text()
    finally:
        run.end()
    assert assert_complete(tmp_path / "out", set(expected)) == expected
