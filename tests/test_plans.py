"""`--dry-run`: what each job says it would do is what it finds, and nothing is written."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from face_drawings import write_fasseg_v3
from judged_faces import some_faces, write_scan
from report_runs import face_rows, write_run
from rich.console import Console

from raylib.config import (
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateSegmentationConfig,
    EvaluateShapeConfig,
    FaceMeshNetSettings,
    MeshnetData,
    ReportConfig,
    SegmentationData,
    SynthesisSettings,
    SynthesizeConfig,
    TrainBabyMeshnetConfig,
    TrainPaperConfig,
    TrainRegressorConfig,
    TrainStage,
    TrainUnetConfig,
)
from raylib.datasets.face_set import cache_file
from raylib.errors import ConfigError
from raylib.evaluation.plan import (
    print_appearance_plan,
    print_pictures_plan,
    print_segmentation_plan,
    print_shape_plan,
)
from raylib.morphable.model import load_prior
from raylib.report import choice
from raylib.synthesis import FaceSynthesizer
from raylib.synthesis.parquet import to_parquet
from raylib.synthesis.run import config_sha256, print_plan
from raylib.training.paper.data import face_sources, prepare_faces
from raylib.training.plans import print_meshnet_plan, print_unet_plan

SMALL = SynthesisSettings(size_px=32, shadow_directions=16)


def said(plan: Callable, config, folder: Path) -> str:
    """Returns what a plan says, and sees to it that it changes nothing in the folder."""

    def state():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before, out = state(), io.StringIO()
    plan(config, Console(file=out, width=80))
    assert state() == before
    return out.getvalue()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    """Three faces of the training split in two of the three parts of a run of five."""
    folder = tmp_path_factory.mktemp("synthetic")
    config = SynthesizeConfig(str(folder), count=5, rows_per_part=2, settings=SMALL)
    (folder / "faces").mkdir()
    make = FaceSynthesizer("prior", SMALL)
    for seeds in ([0, 1], [4]):
        name = f"part-{seeds[0]:012d}-{len(seeds):06d}.parquet"
        (folder / "faces" / name).write_bytes(to_parquet(make(seeds), config, "0" * 64))
    return folder


def test_a_training_of_the_u_net(tmp_path):
    write_fasseg_v3(tmp_path / "fasseg", persons=4, shots=3, size=48)
    data = SegmentationData(str(tmp_path / "fasseg"), ("V3",), fasseg_test=("V3/01",), fasseg_validation=("V3/02",))
    places = {"name": "run", "storage_path": str(tmp_path / "storage"), "out": str(tmp_path / "out")}
    config = TrainUnetConfig(**places, data=data, stages=(TrainStage(32, 2), TrainStage(48, 1)), batch_size=4)
    text = said(print_unet_plan, config, tmp_path)
    assert "photographs: 6 train, 3 validation, 3 test, 0 left out\n" in text
    # Six photographs that an epoch shows twice, four at a time.
    assert "would train 2 epochs of 3 steps at 32 pixels\nwould train 1 epochs of 3 steps at 48 pixels\n" in text
    assert f"would begin anew, with checkpoints in {tmp_path}/storage/run\n" in text
    for name in ("checkpoint_2", "checkpoint_1"):
        (tmp_path / "storage" / "run" / name).mkdir(parents=True)
    assert "would go on from checkpoint_2 in" in said(print_unet_plan, config, tmp_path)
    nowhere = SegmentationData(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="FASSEG folder is"):
        said(print_unet_plan, TrainUnetConfig(**places, data=nowhere), tmp_path)
    evaluated = EvaluateSegmentationConfig(str(tmp_path / "out"), data)
    assert "would segment 3 of fasseg; split test" in said(print_segmentation_plan, evaluated, tmp_path)


def test_a_training_of_the_paper_s_networks(tmp_path):
    places = {"name": "run", "storage_path": str(tmp_path / "storage"), "out": str(tmp_path / "out")}
    data = MeshnetData(rendered=20, cache=str(tmp_path / "cache"))
    config = TrainPaperConfig(**places, data=data, image_px=46, epochs=3, images_per_worker=4)
    text = said(print_meshnet_plan, config, tmp_path)
    # Of twenty faces two are for validation; eighteen make four steps of four.
    assert "20 rendered faces: to be prepared first\nwould train meshnet_paper for 3 epochs of 4 steps\n" in text
    prepared = prepare_faces(data, 46)
    assert len(prepared[0]) == 18
    (source,) = face_sources(data, 46)
    assert cache_file(tmp_path / "cache", source.key).exists()
    assert "20 rendered faces: prepared already\n" in said(print_meshnet_plan, config, tmp_path)
    searched = MeshnetData(rendered=20, photos=str(tmp_path), cache=str(tmp_path / "cache"))
    text = said(print_meshnet_plan, TrainPaperConfig(**places, data=searched, image_px=46), tmp_path)
    assert "0 photographs to find faces in: to be prepared first\n" in text and "every face once\n" in text
    baby = TrainBabyMeshnetConfig(**places, epochs=2, steps_per_epoch=7)
    text = said(print_meshnet_plan, baby, tmp_path)
    assert "would train babymeshnet for 2 epochs of 7 steps\n" in text and "safetensors" not in text
    with pytest.raises(ConfigError, match="data names no faces"):
        said(print_meshnet_plan, TrainPaperConfig(**places, data=MeshnetData()), tmp_path)


def test_a_training_of_the_fit_corrector(tmp_path, synthetic):
    face = FaceMeshNetSettings(str(synthetic), str(synthetic), cache=str(tmp_path / "cache"))
    places = {"name": "run", "storage_path": str(tmp_path / "storage"), "out": str(tmp_path / "out")}
    config = TrainRegressorConfig(**places, face=face, images_per_worker=2, epochs=4)
    text = said(print_meshnet_plan, config, tmp_path)
    assert f"train: 3 faces of {synthetic}, to be prepared first in {tmp_path}/cache/train\n" in text
    assert "would train meshnet for 4 epochs of about 1 steps\n" in text
    with pytest.raises(ConfigError, match="expected faces/"):
        gone = FaceMeshNetSettings(str(tmp_path), str(synthetic), cache=str(tmp_path / "cache"))
        said(print_meshnet_plan, TrainRegressorConfig(**places, face=gone), tmp_path)


def test_synthesis(synthetic):
    config = SynthesizeConfig(str(synthetic), count=5, rows_per_part=2, settings=SMALL)
    text = said(print_plan, config, synthetic)
    assert "3 parts, 2 there already, 1 to be made\nwould make 2 faces of seeds from 2 on\n" in text
    note = {"config_sha256": config_sha256(config, load_prior().sha256), "schema_version": "0"}
    (synthetic / "dataset.json").write_text(json.dumps(note))
    with pytest.raises(ConfigError, match="of other settings, another source or another version"):
        said(print_plan, config, synthetic)
    (synthetic / "dataset.json").unlink()


def test_seeds_of_another_version_of_the_generator_are_another_data_set(monkeypatch):
    config = SynthesizeConfig("out", count=5)
    before = config_sha256(config, "source")
    monkeypatch.setattr("raylib.synthesis.run.GENERATOR_VERSION", "another")
    assert config_sha256(config, "source") != before


def test_evaluations(tmp_path, synthetic):
    out, truth = str(tmp_path / "out"), str(synthetic)
    results = write_run(tmp_path / "results", face_rows(2))
    shape = EvaluateShapeConfig(truth, out, [f"ours={results}"], baselines="landmarks", max_faces=2)
    text = said(print_shape_plan, shape, tmp_path)
    assert f"3 synthetic faces in {truth}, of which the first 2 count\n" in text
    assert "would measure landmark fit, prior\n" in text
    assert f"would measure ours: 2 reconstructions in {results}\n" in text
    appearance = EvaluateAppearanceConfig(truth, out, [f"ours={results}"])
    assert "would write appearance.json, appearance.md" in said(print_appearance_plan, appearance, tmp_path)
    pictures = EvaluatePicturesConfig(truth, out)
    assert said(print_pictures_plan, pictures, tmp_path) == f"would write 3 pictures of {truth} to {out}\n"
    prior = load_prior()
    (verts,) = some_faces(1)
    write_scan(tmp_path / "scans", "one", verts, prior.faces.numpy(), verts[prior.landmark_verts.numpy()])
    scans = EvaluateShapeConfig(str(tmp_path / "scans"), out)
    assert "1 scans in" in said(print_shape_plan, scans, tmp_path)
    with pytest.raises(ConfigError, match="hold no reconstructed face"):
        said(print_shape_plan, EvaluateShapeConfig(truth, out, [f"ours={tmp_path}/results/faces"]), tmp_path)
    with pytest.raises(ConfigError, match="holds scans"):
        said(print_appearance_plan, EvaluateAppearanceConfig(str(tmp_path / "scans"), out), tmp_path)


def test_reports(tmp_path):
    one, two = (write_run(tmp_path / name, face_rows(3)) for name in ("one", "two"))
    text = said(choice.print_plan, ReportConfig(input=str(one), max_faces=2), tmp_path)
    assert f"reconstruction of 3 images with 3 faces in {one}\nwould list 2 of 3 rows\n" in text
    assert f"would write {one}/report.html, with report-data/" in text
    text = said(choice.print_plan, ReportConfig(compare=[str(one), str(two)], output=str(tmp_path / "c")), tmp_path)
    assert (
        f"would compare 3 faces and images that all of them have seen\nwould write {tmp_path}/c/comparison.html"
        in text
    )
    with pytest.raises(ConfigError, match="holds no run"):
        said(choice.print_plan, ReportConfig(input=str(tmp_path)), tmp_path)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "run.json").write_text('{"job": "train_unet"}')
    (tmp_path / "t" / "history.json").write_text('[{"epoch": 1}, {"epoch": 2}]')
    text = said(choice.print_plan, ReportConfig(input=str(tmp_path / "t")), tmp_path)
    assert text.startswith(f"training of 2 reported epochs in {tmp_path}/t\n")
