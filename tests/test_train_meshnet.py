"""`jobs/train_meshnet.py` from the outside: a full disk, a killed worker, a killed driver, and a run that ends."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml
from PIL import Image
from safetensors import safe_open
from training_runs import Driver, epoch_of

from raylib.config import TRAIN_MESHNET, TrainPaperConfig
from raylib.datasets.face_set import cached
from raylib.datasets.rendered_faces import render_faces
from raylib.paper.scene import load_meshnet
from raylib.runtime.command import parse

EPOCHS = 9


def _write_run(folder: Path, **changes: object) -> Path:
    config: dict[str, object] = {
        "name": "run",
        "storage_path": "storage",
        "out": "out",
        "data": {"rendered": 40, "cache": "cache"},
        "image_px": 46,
        "epochs": EPOCHS,
        "steps_per_epoch": 16,
        "images_per_worker": 2,
        "num_workers": 2,
        "keep_checkpoints": 1,
        "strip_epochs": 4,
        "precision": "float32",
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def _small_disk(folder: Path) -> list[str]:
    """A command that runs another one with a file system of 30 MB at `small`, and keeps what is left there."""
    (folder / "small").mkdir()
    script = 'mount -t tmpfs -o size=30m tmpfs small && { "$@"; status=$?; cp -r small storage; exit $status; }'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_a_killed_worker_and_a_killed_driver(tmp_path):
    config = ["--config", str(_write_run(tmp_path))]
    wrapper = _small_disk(tmp_path)
    if subprocess.run([*wrapper, "true"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here without privileges")
    (tmp_path / "storage").rmdir()

    # A checkpoint has 20 MB: there is room for one.
    driver = Driver("train_meshnet.py", [*config, "--storage_path", "small"], tmp_path / "full.log", wrapper)
    try:
        assert driver.process.wait(240) == 1, driver.log.read_text()[-3000:]
    finally:
        driver.stop()
    last = driver.log.read_text().strip().splitlines()[-1]
    assert "checkpoint of run 'run' cannot be written" in last
    assert "No space left on device" in last and "goes on from the last one" in last
    kept = list((tmp_path / "storage/run").glob("checkpoint_*/state.pt"))
    assert len(kept) == 1

    driver = Driver("train_meshnet.py", config, tmp_path / "killed.log")
    try:
        reached = epoch_of(driver.wait_for(lambda text: epoch_of(text) >= 3))
        driver.kill_a_worker(1)
        driver.wait_for(lambda text: epoch_of(text) > reached + 1)
    finally:
        driver.stop()
    assert epoch_of(driver.log.read_text()) < EPOCHS

    driver = Driver("train_meshnet.py", config, tmp_path / "last.log")
    try:
        assert driver.process.wait(240) == 0, driver.log.read_text()[-3000:]
    finally:
        driver.stop()
    text = driver.log.read_text()
    assert "epoch 1.0 of" not in text
    for word in ("mse", "chamfer", "edge", "normal", "laplacian", "images_per_second", "left:"):
        assert word in text
    _check_results(tmp_path / "out")

    # A cluster may submit the job again when it is over, to machines that have nothing of the first attempt's.
    again = Driver("train_meshnet.py", [*config, "--out", "again"], tmp_path / "again.log")
    try:
        assert again.process.wait(240) == 0, again.log.read_text()[-3000:]
    finally:
        again.stop()
    # Not byte for byte: safetensors writes what describes a file in any order.
    first, second = (safe_open(str(tmp_path / out / "meshnet.safetensors"), "pt") for out in ("out", "again"))
    assert first.metadata() == second.metadata() and set(first.keys()) == set(second.keys())
    assert all(torch.equal(first.get_tensor(name), second.get_tensor(name)) for name in first.keys())  # noqa: SIM118
    assert np.asarray(Image.open(tmp_path / "again" / "strip.png")).shape == (46 * 2, 46 * 8, 3)


def _check_results(out: Path) -> None:
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    losses = [row["loss"] for row in history]
    assert losses[-1] < 0.7 * losses[0]
    # Going on from anything but the checkpoint would show: a fresh network starts at the first loss again.
    assert all(later < 1.1 * earlier for earlier, later in itertools.pairwise(losses)), losses
    assert history[-1]["val_flying_edges"] < 0.01
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["num_workers"] == 2
    assert record["best"]["val_loss"] == min(row["val_loss"] for row in history)
    assert load_meshnet(out / "meshnet.safetensors").network.input_px == 46
    assert (out / "curves.svg").read_text().startswith("<svg")
    assert list((out / "tensorboard").glob("events.*"))
    strip = np.asarray(Image.open(out / "strip.png"))
    assert strip.shape == (46 * 5, 46 * 8, 3)  # the faces, then before training and after epochs 4, 8 and 9
    assert np.array_equal(strip[:46], np.asarray(Image.open(out / "strip" / "original.png")))
    assert Image.open(out / "figure_9_faces.png").width == 2 * 3 * 46
    for ending in ("obj", "glb"):
        assert len(trimesh.load(out / f"face_0.{ending}", force="mesh").faces) == 4096


def test_storage_that_cannot_be_written_stops_the_job_before_any_work(tmp_path):
    from raylib.errors import ConfigError
    from raylib.training.paper.run import run_training

    (tmp_path / "file").write_text("no folder")
    config = TrainPaperConfig(storage_path=str(tmp_path / "file"), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"storage_path '.*file' cannot be written"):
        run_training(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bucket_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    from raylib.errors import ConfigError
    from raylib.training.ray_run import check_storage

    names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (names | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    config = TrainPaperConfig(storage_path="s3://bucket/train", out=str(tmp_path))
    with pytest.raises(ConfigError, match=r"'s3://bucket/train' cannot be written: .*connect"):
        check_storage(config)


def test_faces_are_prepared_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return render_faces(2, 32)

    first, second = (cached(tmp_path, {"size": 32}, make) for _ in range(2))
    assert made == [1]
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    cached(tmp_path, {"size": 33}, make)
    assert made == [1, 1]


@pytest.mark.parametrize(
    "option",
    [
        "--images_per_worker=0",
        "--image_px=45",
        "--paper.loss.mse=-1",
        "--data.validation_share=1",
        "--paper.nonsense=1",
    ],
)
def test_impossible_settings_are_one_sentence(option, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(TRAIN_MESHNET, "", [option])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert option.split("=")[0].removeprefix("--").split(".")[-1] in error


def test_without_options_it_trains_on_rendered_faces():
    config = parse(TRAIN_MESHNET, "", [])
    assert (config.network, config.data.rendered, config.paper.loss.vgg) == ("meshnet_paper", 256, 0)
