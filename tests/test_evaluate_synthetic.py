"""Both evaluations from Parquet to tables and pictures."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raylib.config import (
    EvaluateAppearanceConfig,
    EvaluateShapeConfig,
    SynthesisSettings,
    SynthesizeConfig,
)
from raylib.errors import ConfigError
from raylib.evaluation.appearance.errors import total_sh
from raylib.evaluation.appearance.run import run_appearance
from raylib.evaluation.results import ResultsFolder
from raylib.evaluation.shape.run import run_shape
from raylib.evaluation.truth import known_faces, write_pictures
from raylib.reconstruction import schema as reconstruction_rows
from raylib.synthesis import FaceSynthesizer, seeds_of
from raylib.synthesis.parquet import SyntheticDataset, to_parquet

SHOTS = 2


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """Three people, each in two lights, 96 pixels."""
    settings = SynthesisSettings(
        size_px=96,
        supersampling=1,
        shots=SHOTS,
        shots_differ_in="light",
        yaw_deg=25.0,
        camera_effects=False,
        gloss=False,
    )
    folder = tmp_path_factory.mktemp("truth")
    config = SynthesizeConfig(output=str(folder), settings=settings, store_maps=False)
    faces = FaceSynthesizer("prior", settings)(seeds_of("test", 3 * SHOTS, shots=SHOTS))
    (folder / "faces").mkdir()
    (folder / "faces" / "part-0.parquet").write_bytes(to_parquet(faces, config, "0"))
    return folder


def write_rows(folder: Path, truth: Path, left_out: int = 0, **changes) -> Path:
    """Writes a reconstruction that knows the truth, as rows of the job; `changes` compute columns of a face."""
    rows = []
    for face in list(known_faces(str(truth), 100))[left_out:]:
        camera = face.photo.camera
        row = {
            "image_uri": f"pictures/{face.name}.png",
            "image_sha256": face.keys[-1],
            "face_index": 0,
            "face_id": f"{face.keys[-1][:16]}-0",
            "status": "ok",
            "method": "oracle",
            "morphable_model": "prior",
            "verts_mm": face.verts.astype(np.float32).ravel(),
            "R": camera.R[0].flatten().tolist(),
            "T_mm": camera.T[0].tolist(),
            "focal_px": float(camera.focal_px),
            "principal_px": camera.principal_px[0].tolist(),
            "albedo": face.appearance.albedo.astype(np.float32).ravel(),
            "light_sh": total_sh(face.appearance).astype(np.float32).ravel(),
        }
        rows.append(row | {name: compute(face) for name, compute in changes.items()})
        # A second, smaller face of the same image is not the one that is judged.
        rows.append({**row, "face_index": 1, "verts_mm": np.zeros(2113 * 3, np.float32)})
    rows.append({"image_uri": "none.png", "status": "no_face", "face_index": None})
    (folder / "faces").mkdir(parents=True)
    (folder / "faces" / "part-0.parquet").write_bytes(reconstruction_rows.to_parquet(rows))
    return folder


def half_way(face):
    from raylib.morphable.model import load_prior

    mean = load_prior().mean.double().numpy()
    return (mean + 0.5 * (face.verts - mean)).astype(np.float32).ravel()


@pytest.mark.slow
def test_shape_of_rows_against_synthetic_truth(truth, tmp_path):
    results = [
        f"oracle={write_rows(tmp_path / 'a', truth)}",
        f"half={write_rows(tmp_path / 'b', truth, left_out=2, verts_mm=half_way)}",
    ]
    config = EvaluateShapeConfig(
        str(truth), str(tmp_path / "out"), results, landmarks="true", baselines="landmarks", scan_points=1500, worst=1
    )
    report = run_shape(config)
    assert report["faces"] == 3 * SHOTS
    oracle, half = report["methods"]["oracle"], report["methods"]["half"]
    for figure in ("vertex_mm", "normals_deg", "vertex_normals_deg", "regions", "pose_deg", "landmark_nme"):
        assert oracle[figure]["value"] == pytest.approx(0, abs=5e-3), figure
        assert oracle[figure]["faces"] == 6
    assert oracle["scan_to_mesh"]["median"]["value"] < 1e-4
    assert (half["faces"], half["missing"]) == (4, 2)
    assert half["vertex_mm"]["ratio"]["value"] == pytest.approx(0.5, abs=0.03)
    assert report["methods"]["landmark fit, prior"]["scan_to_mesh"]["ratio"]["value"] < 0.8
    assert report["common"]["faces"] == 4
    out = tmp_path / "out"
    assert json.loads((out / "shape.json").read_text())["methods"]["half"]["faces"] == 4
    assert (out / "shape_curves.svg").read_text().count("<polyline") == 2 * 4
    heat = np.asarray(Image.open(out / "shape_heat.png"))
    worst = np.asarray(Image.open(out / "shape_worst.png"))
    assert heat.std() > 20
    assert worst.shape[0] > 4 * 220


@pytest.mark.slow
def test_appearance_of_rows_against_synthetic_truth(truth, tmp_path):
    def baked(face):
        return (face.appearance.albedo * np.linspace(0.3, 1.2, 2113)[:, None]).astype(np.float32).ravel()

    plain = {"albedo": lambda _: None, "light_sh": lambda _: None, "vertex_colors": baked}
    results = [
        f"oracle={write_rows(tmp_path / 'a', truth)}",
        f"baked={write_rows(tmp_path / 'b', truth, albedo=baked)}",
        f"colours={write_rows(tmp_path / 'c', truth, **plain)}",
    ]
    config = EvaluateAppearanceConfig(str(truth), str(tmp_path / "out"), results, landmarks="true", worst=1)
    report = run_appearance(config)
    oracle, baked_figures = report["methods"]["oracle"], report["methods"]["baked"]
    for figure in ("albedo", "albedo_by_channel", "tone_deg", "inconstancy"):
        assert oracle[figure]["value"] == pytest.approx(0, abs=1e-4), figure
    assert oracle["sphere"]["value"] < 0.1  # nine harmonics against a sharp lamp
    assert oracle["light_deg"]["value"] < 0.01
    assert oracle["unseen_psnr"]["value"] > 60
    assert oracle["inconstancy"]["people"] == 3
    # What the true light, albedo and shape do not explain: shadows of hair and shoulders, the lamp's sharp shadow.
    assert oracle["psnr"]["value"] > 18
    assert oracle["psnr"]["value"] > report["methods"]["mean face"]["psnr"]["value"] + 3
    assert oracle["coverage"]["value"] > 0.99
    assert baked_figures["albedo"]["value"] > 0.2
    assert baked_figures["unseen_psnr"]["value"] < 30
    assert report["without_albedo"] == ["colours"]
    assert report["methods"]["colours"]["sphere"]["value"] is None
    tones = report["by_tone"]["oracle"]["classes"]
    assert sum(c["faces"] for c in tones.values()) == 6
    text = (tmp_path / "out" / "appearance.md").read_text()
    assert "colours gives no albedo" in text
    assert "No LPIPS" in text
    json.loads((tmp_path / "out" / "appearance.json").read_text())
    assert np.asarray(Image.open(tmp_path / "out" / "appearance_worst.png")).shape[1] == 8 * 220


@pytest.mark.slow
def test_pictures_are_the_rows_bytes_and_their_faces_are_found_again(truth, tmp_path):
    assert write_pictures(str(truth), tmp_path) == 3 * SHOTS
    files = sorted(tmp_path.iterdir())
    hashes = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    faces = list(known_faces(str(truth), 100))
    assert {face.keys[-1] for face in faces} == hashes
    assert {file.stem for file in files} == {face.name for face in faces}
    assert len({face.appearance.person for face in faces}) == 3


@pytest.mark.slow
def test_known_faces_are_what_the_generator_made(truth):
    (made,) = SyntheticDataset(str(truth)).batches(100)
    for i, face in enumerate(known_faces(str(truth), 700)):
        assert face.name == str(made.seeds[i])
        np.testing.assert_array_equal(face.photo.image, made.image[i])
        np.testing.assert_array_equal(face.appearance.labels, made.labels[i])
        np.testing.assert_allclose(face.verts, made.verts_mm[i], atol=1e-5)
        camera = face.photo.camera
        projected = camera.project(torch.from_numpy(face.landmarks)[None])[0].numpy()
        np.testing.assert_allclose(projected, face.photo.landmarks_px, atol=0.01)
        assert len(face.scan) == 700


def test_rows_of_another_job_are_one_sentence(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "faces").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "faces" / "x.parquet")
    with pytest.raises(ConfigError, match=r"holds no rows of jobs/synthesize\.py"):
        list(known_faces(str(tmp_path), 100))
    with pytest.raises(ConfigError, match=r"hold no rows of jobs/reconstruct\.py"):
        ResultsFolder("x", str(tmp_path))
