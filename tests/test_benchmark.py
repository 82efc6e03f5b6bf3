import json
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from raylib.benchmark import pictures, render, stages, train, yale_b
from raylib.config import (
    BenchmarkPicturesConfig,
    BenchmarkRenderConfig,
    BenchmarkStagesConfig,
    BenchmarkTrainConfig,
    BenchmarkYaleBConfig,
    LossWeights,
    PaperSettings,
)
from raylib.errors import ConfigError
from raylib.paper.meshnet import MeshNet
from raylib.paper.scene import TrainedMeshnet, save_meshnet
from raylib.paper.templates import load_template


@pytest.mark.slow
def test_render_benchmark_times_every_case_and_writes_ratios(tmp_path):
    output = tmp_path / "b.json"
    config = BenchmarkRenderConfig(
        str(output), sizes=(16,), faces_per_pixel=(1, 4), levels=(2,), threads=(1, 2), rounds=2
    )
    assert render.run(config) == 0
    record = json.loads(output.read_text())
    rows = [r for r in record["figures"]["timings"] if r["device"] == "cpu"]
    assert len(rows) == 2 * (2 + 2)  # threads times (two rasterisers, PyTorch3D's shader, the soft renderer)
    for row in rows:
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ours_ms"])
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert (one["what"], one["speedup"], one["threads"], two["threads"]) == (two["what"], 1.0, 1, 2)
        assert two["speedup"] == pytest.approx(one["ours_ms"] / two["ours_ms"])
    assert {"torch", "numba"} <= set(record["versions"]) and record["machine"]["cpus"] >= 1


def test_a_case_beyond_the_limit_is_timed_on_our_side_only():
    scene = render._Scene(2, 16, 0, "cpu")
    assert render._reference_seconds(scene, 50) > render._reference_seconds(scene, 1) > 0
    ours_ms, reference_ms = render._alternate(scene.soft(), None, (1, 2), 1, "cpu")
    assert set(ours_ms) == {1, 2} and min(ours_ms.values()) > 0 and reference_ms is None


@pytest.mark.parametrize(
    "argv", [["benchmark.py"], ["benchmark.py", "cook"], ["benchmark.py", "render", "--size", "3"]]
)
def test_the_job_refuses_what_it_does_not_know(argv, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path("jobs/benchmark.py", run_name="__main__")
    assert stop.value.code not in (0, None)


@pytest.mark.slow
def test_pictures_agree_with_pytorch3d_and_show_the_shadow(tmp_path):
    assert pictures.run(BenchmarkPicturesConfig(str(tmp_path), size=64)) == 0
    left, right = np.split(np.asarray(Image.open(tmp_path / pictures.COMPARISON))[:, :128].astype(int), 2, axis=1)
    assert np.abs(left - right).max() <= 3 and left.std() > 20
    above, below = np.split(np.asarray(Image.open(tmp_path / pictures.EIGHT_LIGHTS).convert("L")).astype(int), 2)
    assert (below - above).max() <= 12 and (below - above).min() < -20  # shadow only takes light away


@pytest.mark.slow
def test_self_shadow_helps_on_real_faces_lit_from_the_side(tmp_path, shared_data):
    config = BenchmarkYaleBConfig(str(shared_data("yale_b")), str(tmp_path / "y.json"), str(tmp_path / "y.png"))
    assert yale_b.run(config) == 0
    side = json.loads((tmp_path / "y.json").read_text())["figures"]["by_angle"]["beyond 45"]
    for plain, shadowed in (("lambert", "lambert_shadow"), ("sh", "sh_shadow")):
        assert side[plain]["correlation"] > 0.7
        assert side[shadowed]["correlation"] > side[plain]["correlation"] + 0.02
        assert side[shadowed]["psnr_db"] > side[plain]["psnr_db"] + 0.3
    assert Image.open(tmp_path / "y.png").size[0] > 500


def test_photographs_without_a_light_in_their_names_are_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "me.png")
    with pytest.raises(ConfigError, match="expected photographs named with a light"):
        list(yale_b.read_people(tmp_path))


def test_lights_point_where_their_names_say(tmp_path):
    for name in ("A+000E+00", "A+090E+00", "A+000E+90", "A-090E-45"):
        Image.new("L", (8, 8)).save(tmp_path / f"x_P00{name}.png")
    (person,) = yale_b.read_people(tmp_path)
    by_angle = dict(zip(("front", "above", "right", "left_below"), person.directions.tolist(), strict=True))
    assert by_angle["front"] == pytest.approx([0, 0, -1], abs=1e-6)  # towards the camera, which looks along +z
    assert by_angle["above"] == pytest.approx([0, -1, 0], abs=1e-6)
    assert by_angle["right"] == pytest.approx([-1, 0, 0], abs=1e-6)  # the subject's right, the picture's left
    assert by_angle["left_below"] == pytest.approx([2**-0.5, 2**-0.5, 0], abs=1e-6)


@pytest.mark.slow
def test_the_training_steps_that_are_compared_are_the_same_step():
    config = BenchmarkTrainConfig(size=46, faces_per_pixel=50)
    task, stock = train.both_sides(config, 1, LossWeights())
    torch.manual_seed(0)
    network = task.new_network()
    for ours, theirs in zip(network.parameters(), stock.state.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ours = {name: float(term) for name, term in task.losses(network, np.arange(1), 0.0).items()}
    stock_terms = {name: float(term) for name, term in stock(np.arange(1)).items()}
    assert set(stock_terms) == set(ours) - {"loss"}
    for name, value in stock_terms.items():
        assert value == pytest.approx(ours[name], rel=0.1 if name in ("mse", "vgg") else 1e-4), (
            name
        )  # light at vertices


def test_stages_become_a_table_and_a_picture(tmp_path, capsys):
    torch.manual_seed(0)
    for name, psnr in (("first", 12.25), ("second", 17.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.json").write_text(json.dumps([{"epoch": 3.0, "val_psnr_db": psnr}]))
        trained = TrainedMeshnet(MeshNet(2113, 46), load_template("hemisphere"), PaperSettings())
        save_meshnet(trained, tmp_path / name / "meshnet.safetensors")
    runs = tuple(str(tmp_path / name) for name in ("first", "second"))
    config = BenchmarkStagesConfig(runs, str(tmp_path / "stages.png"), str(tmp_path / "stages.json"))
    assert stages.run(config) == 0
    assert "| second | 3 | 17.5 | - | - | - |" in capsys.readouterr().out
    assert Image.open(tmp_path / "stages.png").size == (2 * 3 * 46, 2 * 4 * 46)
    assert json.loads((tmp_path / "stages.json").read_text())["figures"]["stages"][0]["val_psnr_db"] == 12.25
    with pytest.raises(ConfigError, match="nowhere"):
        stages.run(BenchmarkStagesConfig((str(tmp_path / "nowhere"),)))
