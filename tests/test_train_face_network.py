"""The physics-based network's training from the outside: synthetic faces in, weights for the reconstruction out."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from training_runs import ROOT

from raylib.config import TRAIN_MESHNET, FaceMeshNetSettings, TrainRegressorConfig
from raylib.morphable.model import load_prior
from raylib.regressor.weights import load_weights
from raylib.runtime.command import parse
from raylib.training.regressor.cascade import start


def job(name, *words):
    done = subprocess.run(
        [sys.executable, f"jobs/{name}.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_synthetic_faces_become_weights(tmp_path):
    for split, count in (("train", 40), ("validation", 12)):
        words = ("--count", count, "--split", split, "--settings.size_px", 160, "--store_maps", "false")
        job("synthesize", "--output", tmp_path / split, *words)
    settings = (
        *("--face.widths", "[8, 16, 32, 32]", "--face.graph_widths", "[32, 16, 8]", "--face.hidden", 32),
        *("--network", "meshnet", "--name", "small", "--storage_path", tmp_path / "storage"),
        *("--face.synthetic", tmp_path / "train", "--face.validation", tmp_path / "validation"),
        *("--face.cache", tmp_path / "cache", "--face.cascade_steps", 1),
        *("--images_per_worker", 4, "--steps_per_epoch", 3, "--num_workers", 1, "--epochs", 2),
    )
    out = tmp_path / "out"
    told = job("train_meshnet", *settings, "--out", out)
    assert "of 40 faces of" in told
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    # Even forty faces make the cascade better than the fit to what dlib finds.
    assert history[-1]["cascade_pose_deg"] < history[-1]["fit_pose_deg"]
    model = load_prior()
    _, corrector = load_weights(out / "meshnet.safetensors", model)
    assert len(corrector.cascade.weights) == 1 and len(corrector.trend.patterns) > 0
    assert 0.1 < float(corrector.average_sigma.mean()) < 10
    assert (out / "report.html").is_file() and (out / "face_0.obj").is_file()

    # The same faces teach its cascade on.
    face = FaceMeshNetSettings(
        widths=(8, 16, 32, 32), graph_widths=(32, 16, 8), hidden=32, cache=str(tmp_path / "cache"),
        init_weights=str(out / "meshnet.safetensors"), teach_cascade=True, synthetic=str(tmp_path / "train"),
        validation=str(tmp_path / "validation"),
    )  # fmt: skip
    network, taught = start(TrainRegressorConfig(face=face))
    assert network.training and not torch.equal(taught.cascade.weights, corrector.cascade.weights)
    torch.testing.assert_close(taught.cascade.means, corrector.cascade.means, rtol=0, atol=0)
    assert torch.equal(taught.mean_albedo, corrector.mean_albedo) and len(taught.gated_step.weights) == 0
    untaught = start(TrainRegressorConfig(face=replace(face, teach_cascade=False)))[1]
    assert torch.equal(untaught.cascade.weights, corrector.cascade.weights)


def test_only_a_cascade_that_is_there_can_be_taught_on(capsys):
    with pytest.raises(SystemExit):
        parse(TRAIN_MESHNET, "", ["--network=meshnet", "--face.teach_cascade=true"])
    assert "init_weights" in capsys.readouterr().err
