import json

import numpy as np
import pytest
import torch
from face_drawings import drawn_face, write_fasseg_v3

from raylib.config import EvaluateSegmentationConfig, SegmentationData
from raylib.datasets.fasseg import list_fasseg
from raylib.datasets.occluders import cover_face, occluder_mask
from raylib.errors import ConfigError
from raylib.evaluation.segmentation import ImageResult, markdown, run_evaluation, summarise
from raylib.segmentation.labels import Label, face_mask
from raylib.segmentation.segmenter import FaceSegmenter, save_weights
from raylib.segmentation.unet import UNet


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_an_occluder_covers_the_wanted_share_of_the_face(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, labels = drawn_face(64, rng)
        mask = occluder_mask(labels, share, rng)
        assert mask[face_mask(labels)].mean() == pytest.approx(share, abs=0.02)
        seen, truth = cover_face(image, labels, share, np.random.default_rng(1))
        changed = (seen != image).any(-1)
        assert (truth[changed] == Label.BACKGROUND).all()
        assert (truth[~changed] == np.where(truth[~changed] == 0, 0, labels[~changed])).all()


def test_no_share_covers_nothing():
    image, labels = drawn_face(32, np.random.default_rng(0))
    seen, truth = cover_face(image, labels, 0.0, np.random.default_rng(1))
    assert (seen == image).all()
    assert (truth == labels).all()


def _result(photo, confusion: np.ndarray) -> ImageResult:
    return ImageResult(photo, confusion, np.full((6, 4), 10))


def test_a_summary_pools_pixels_and_brackets_its_figures(tmp_path):
    write_fasseg_v3(tmp_path, persons=2, shots=3, size=16)
    photos = list_fasseg(tmp_path, ("V3",)).photos
    rng = np.random.default_rng(0)
    results = [_result(photo, 100 * np.eye(6, dtype=np.int64) + rng.integers(0, 30, (6, 6))) for photo in photos]
    summary = summarise(results, resamples=300, seed=0)
    total = sum(result.confusion for result in results)
    assert summary["confusion"] == total.tolist()
    assert (summary["images"], summary["persons"]) == (6, 2)
    eyes = summary["classes"]["eyes"]
    assert eyes["recall"]["value"] == pytest.approx(total[3, 3] / total[3].sum())
    assert eyes["f1"]["ci95"][0] <= eyes["f1"]["value"] <= eyes["f1"]["ci95"][1]
    assert summary["mean_f1"]["value"] == pytest.approx(
        np.mean([c["f1"]["value"] for c in summary["classes"].values()])
    )
    json.dumps(summary)


def test_the_evaluation_writes_its_report(tmp_path):
    write_fasseg_v3(tmp_path / "fasseg", persons=3, shots=3, size=32)
    torch.manual_seed(0)
    save_weights(UNet((4, 8)), tmp_path / "w.safetensors", input_px=32)
    data = SegmentationData(str(tmp_path / "fasseg"), ("V3",), fasseg_test=("V3/01", "V3/02"))
    config = EvaluateSegmentationConfig(
        str(tmp_path / "out"), data, weights=str(tmp_path / "w.safetensors"), resamples=10, occlusion=0.2
    )
    report = run_evaluation(config)
    groups = report["groups"]
    assert {name: group["images"] for name, group in groups.items()} == {
        "fasseg": 6,
        "fasseg, frontal": 2,
        "fasseg, yaw 15 to 45": 2,
        "fasseg, yaw 60 to 90": 2,
    }
    assert np.sum(groups["fasseg"]["confusion"]) == 6 * 32 * 32
    assert json.loads((tmp_path / "out/segmentation.json").read_text())["groups"] == groups
    table = (tmp_path / "out/segmentation.md").read_text()
    assert "## fasseg, frontal: 2 images, 2 persons" in table
    assert (tmp_path / "out/segmentation.png").stat().st_size > 0
    assert run_evaluation(config)["groups"] == groups


def test_an_empty_split_is_an_error(tmp_path):
    write_fasseg_v3(tmp_path / "fasseg", persons=2, shots=1, size=16)
    save_weights(UNet((4, 8)), tmp_path / "w.safetensors", input_px=16)
    data = SegmentationData(str(tmp_path / "fasseg"), ("V3",), fasseg_test=("V3/01",))
    config = EvaluateSegmentationConfig(
        str(tmp_path / "out"), data, split="validation", weights=str(tmp_path / "w.safetensors")
    )
    with pytest.raises(ConfigError, match="'validation' leaves no photograph"):
        run_evaluation(config)
    assert FaceSegmenter(tmp_path / "w.safetensors").input_px == 16


def test_a_class_that_never_occurs_is_null_not_nan(tmp_path):
    write_fasseg_v3(tmp_path, persons=1, shots=1, size=16)
    photo = list_fasseg(tmp_path, ("V3",)).photos[0]
    confusion = np.zeros((6, 6), np.int64)
    confusion[0, 0] = 9
    summary = summarise([_result(photo, confusion)], resamples=5, seed=0)
    assert summary["classes"]["eyes"]["f1"] == {"value": None, "ci95": None}
    assert summary["mean_f1"]["value"] == 1
    json.dumps(summary, allow_nan=False)
    report = {"config": {"split": "test"}, "groups": {"fasseg": summary}}
    assert "| eyes | - | - | - | - | - |" in markdown(report)


@pytest.mark.slow
def test_the_shipped_weights_keep_their_scores_on_held_out_people(shared_data, tmp_path):
    """Floors a little below what the model card states."""
    data = SegmentationData(fasseg=str(shared_data("fasseg")), celebamask=str(shared_data("celebamask")))
    groups = run_evaluation(EvaluateSegmentationConfig(str(tmp_path / "a"), data, max_images=26, resamples=1))[
        "groups"
    ]
    assert groups["fasseg"]["mean_f1"]["value"] > 0.90
    assert groups["celebamask"]["mean_f1"]["value"] > 0.90
    covered = EvaluateSegmentationConfig(str(tmp_path / "b"), data, max_images=26, resamples=1, occlusion=0.2)
    for name, group in run_evaluation(covered)["groups"].items():
        if name in ("fasseg", "celebamask"):
            assert groups[name]["mean_f1"]["value"] - group["mean_f1"]["value"] < 0.05
