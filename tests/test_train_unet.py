"""`jobs/train_unet.py` from the outside: a worker and a driver are killed, and the run still ends whole."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml
from face_drawings import write_fasseg_v3
from moto.server import ThreadedMotoServer
from PIL import Image
from training_runs import ROOT, Driver, epoch_of, reporters

from raylib.config import TrainUnetConfig
from raylib.runtime.command import parse
from raylib.segmentation.segmenter import load_weights

EPOCHS = 9


def _write_run(folder: Path, **changes: object) -> Path:
    write_fasseg_v3(folder / "fasseg", persons=6, shots=4, size=48)
    config: dict[str, object] = {
        "name": "run",
        "storage_path": str(folder / "storage"),
        "out": "out",  # relative to the folder that the job is started in, which is not its workers'
        "data": {
            "fasseg": "fasseg",
            "fasseg_versions": ["V3"],
            "fasseg_test": ["V3/01"],
            "fasseg_validation": ["V3/02"],
        },
        "widths": [8, 16, 32],
        "stages": [{"size_px": 32, "epochs": EPOCHS, "augmentation": 0.3}],
        "batch_size": 2,
        "fasseg_repeat": 12,
        "cache_px": 40,
        "num_workers": 2,
        "warmup_steps": 10,
        "precision": "float32",
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


@pytest.fixture
def s3_address(monkeypatch):
    """An S3 server on this machine with one bucket; processes started here find it through their environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="runs")
    yield "s3://runs/train"
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_killed_worker_and_a_killed_driver_both_go_on(tmp_path, s3_address):
    config = _write_run(tmp_path, storage_path=s3_address)
    driver = Driver("train_unet.py", ["--config", str(config)], tmp_path / "first.log")
    try:
        text = driver.wait_for(lambda text: epoch_of(text) >= 2)
        driver.kill_a_worker(1)
        reached = epoch_of(text)
        text = driver.wait_for(lambda text: len(reporters(text)) >= 2 and epoch_of(text) > reached + 1)
    finally:
        driver.stop()
    assert epoch_of(text) < EPOCHS

    driver = Driver("train_unet.py", ["--config", str(config)], tmp_path / "second.log")
    try:
        assert driver.process.wait(240) == 0, driver.log.read_text()[-3000:]
    finally:
        driver.stop()
    resumed = driver.log.read_text()
    assert "epoch 1.0 of" not in resumed
    history = json.loads((tmp_path / "out/history.json").read_text())
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    losses = [row["loss"] for row in history]
    assert losses[-1] < 0.8 * losses[0]
    # Going on from anything but the checkpoint would show: a fresh network starts at the first loss again.
    assert all(later < 1.1 * earlier for earlier, later in itertools.pairwise(losses)), losses
    network, input_px = load_weights(tmp_path / "out/unet.safetensors")
    assert network.widths == (8, 16, 32)
    assert input_px == 32
    assert (tmp_path / "out/curves.svg").read_text().startswith("<svg")
    assert (tmp_path / "out/contact_sheet.png").stat().st_size > 0
    assert list((tmp_path / "out/tensorboard").glob("events.*"))
    assert (tmp_path / "out/report.html").stat().st_size > 0
    strips = sorted((tmp_path / "out/strip").iterdir())
    assert [path.name for path in strips] == [*(f"epoch_{e:05d}.png" for e in range(1, EPOCHS + 1)), "original.png"]
    (drawn, truth) = (Image.open(path).size for path in strips[-2:])
    assert drawn[0] == 8 * drawn[1] and truth == (drawn[0], 2 * drawn[1])  # photographs and their true labels
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["config"]["num_workers"] == 2
    assert record["best"]["val_mean_f1"] == max(row["val_mean_f1"] for row in history)
    assert record["photographs"] == {"train": 16, "validation": 4, "test": 4, "left_out": 0}


@pytest.mark.slow
def test_a_wrong_folder_stops_the_job_before_any_work(tmp_path):
    config = _write_run(tmp_path, data={"fasseg": str(tmp_path / "nowhere")})
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/train_unet.py"), "--config", str(config)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("expected V2/Train_RGB and V2/Train_Labels in it")
    assert not (tmp_path / "storage").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("unet_*.yaml")))
def test_the_shipped_configurations_are_valid(name):
    config = parse(TrainUnetConfig, "", ["--config", str(ROOT / "configs" / name), "--data.fasseg", "somewhere"])
    assert config.data.fasseg == str(Path.cwd() / "somewhere")
    assert len(config.widths) >= 2
    # Every level halves the picture; the last stage must still have a pixel at the bottom.
    assert config.stages[-1].size_px % 2 ** (len(config.widths) - 1) == 0


@pytest.mark.parametrize("option", ["--batch_size=0", "--stages=[{size_px: 8, epochs: 1}]", "--data.nonsense=1"])
def test_impossible_settings_are_one_sentence(option, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(TrainUnetConfig, "", ["--name=a", "--storage_path=b", "--out=c", option])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert option.split("=")[0].removeprefix("--").split(".")[-1] in error or "size_px" in error
