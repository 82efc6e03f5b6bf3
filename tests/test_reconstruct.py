"""The reconstruction job from end to end, on photographs and on everything that a folder may hold beside them."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import trimesh
from fault_runs import png_header, sha256_of_files
from PIL import Image
from rich.console import Console

from raylib.config import FaceSettings, ReconstructConfig
from raylib.errors import ConfigError
from raylib.geometry.camera import Camera
from raylib.reconstruction.run import config_sha256, reconstruct
from raylib.reconstruction.schema import SCHEMA, SCHEMA_VERSION, to_parquet
from raylib.segmentation.labels import Label, snap_to_labels

ROOT = Path(__file__).resolve().parents[1]
HOG_ONLY = FaceSettings(detector="hog")  # the CNN's second look costs a second for each picture without a face


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photographs) -> Path:
    """What a user's folder may hold; the name of each file says what should become of it."""
    root = tmp_path_factory.mktemp("photographs")
    astronaut = Image.open(photographs / "astronaut.png").convert("RGB")
    (root / "nested" / "tief er").mkdir(parents=True)
    shutil.copy(photographs / "astronaut.png", root / "ok plain.png")
    astronaut.save(root / "nested" / "ok grüße & <b>'quotes'.jpg", quality=92)
    astronaut.convert("L").save(root / "nested" / "tief er" / "ok grey.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    astronaut.transpose(Image.Transpose.ROTATE_90).save(root / "ok turned.jpg", quality=92, exif=exif)
    two = Image.new("RGB", (1100, 512))
    two.paste(astronaut, (0, 0))
    two.paste(astronaut.resize((400, 400)), (600, 50))
    two.save(root / "two faces.png")
    shutil.copy(photographs / "coffee.png", root / "no_face cup.png")
    data = (root / "ok plain.png").read_bytes()
    (root / "decode_error truncated.png").write_bytes(data[: len(data) // 2])
    (root / "decode_error empty.jpg").write_bytes(b"")
    (root / "decode_error text.png").write_text("this is no picture")
    (root / "too_large bomb.png").write_bytes(png_header(30_000, 30_000))
    (root / "directory.jpg").mkdir()
    os.mkfifo(root / "error pipe.png")
    Path(os.fsdecode(os.fsencode(root) + b"/no_face caf\xe9.png")).write_bytes(
        (photographs / "chelsea.png").read_bytes()
    )
    (root / "error dangling.png").symlink_to(root / "nowhere.png")
    (root / "readme.txt").write_text("not an input")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory, ray_session):
    output = tmp_path_factory.mktemp("out")
    config = ReconstructConfig(str(folder), str(output), faces=HOG_ONLY, images_per_shard=4, write_labels=True)
    console = quiet()
    assert reconstruct(config, console) == 0
    return config, output, console.file.getvalue()


def rows_of(output: Path) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(p) for p in sorted((output / "faces").glob("*.parquet"))])
    return rows.sort_values(["image_uri", "face_index"]).reset_index(drop=True)


def test_every_file_has_its_rows_with_the_status_that_its_name_says(folder, run):
    rows = rows_of(run[1])
    names = rows["image_uri"].str.rsplit("/", n=1).str[-1]
    assert len(rows) == 14 and names.nunique() == 13
    for name, row in zip(names, rows.to_dict("records"), strict=True):
        expected = "ok" if name.startswith("two") else name.split(" ")[0].split(".")[0]
        assert row["status"] == expected, (name, row["error_message"])
        if expected in ("ok", "no_face"):
            assert pd.isna(row["error_message"]) and row["width"] > 0
        else:
            assert row["error_message"] and row["error_stage"] in ("read", "decode")
            assert "0x" not in row["error_message"]
    assert sorted(rows.loc[names == "two faces.png", "face_index"]) == [0, 1]
    assert rows["face_id"].dropna().is_unique


def test_duckdb_and_pandas_read_the_table_without_ray(run):
    counts = duckdb.sql(f"select status, count(*) from '{run[1]}/faces/*.parquet' group by 1").fetchall()
    assert dict(counts) == {"ok": 6, "no_face": 2, "decode_error": 3, "too_large": 1, "error": 2}
    (shape,) = duckdb.sql(
        f"select distinct len(verts_mm) from '{run[1]}/faces/*.parquet' where status = 'ok'"
    ).fetchall()[0]
    assert shape == 2113 * 3
    for path in (run[1] / "faces").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert schema.remove_metadata().equals(SCHEMA.remove_metadata())
        assert schema.metadata[b"physface_schema_version"] == SCHEMA_VERSION.encode()
        assert schema.field("verts_mm").metadata[b"shape"] == b"v,3"


def test_meshes_load_whole(run):
    rows = rows_of(run[1]).query("status == 'ok'")
    for row in rows.to_dict("records"):
        obj = trimesh.load(run[1] / row["obj_uri"], process=False)
        glb = trimesh.load(run[1] / row["glb_uri"]).to_mesh()
        for mesh, scale in ((obj, 1), (glb, 1000)):
            assert np.isfinite(mesh.vertices).all() and len(mesh.faces) == 4096
            assert mesh.area_faces.min() * scale**2 > 1e-4  # no degenerate faces, square millimetres
            assert 100 < mesh.extents[0] * scale < 200
        verts = np.asarray(row["verts_mm"]).reshape(-1, 3)
        np.testing.assert_allclose(glb.vertices * 1000, verts, atol=1e-3)
        assert obj.visual.material.image.size[0] >= 128
        assert Image.open(run[1] / row["preview_uri"]).size == (5 * 288, 2 * 288)
        assert (run[1] / row["mtl_uri"]).read_text().endswith(f"{Path(row['texture_uri']).name}\n")


def test_label_maps_describe_the_crop(run):
    """The label map must lie over the face: its eyes, nose and mouth at the landmarks that the row holds."""
    rows = rows_of(run[1])
    (row,) = rows[rows["image_uri"].str.endswith("ok plain.png")].to_dict("records")
    labels = snap_to_labels(np.asarray(Image.open(run[1] / row["labels_uri"]).convert("RGB")))
    fractions = np.bincount(labels.ravel(), minlength=6) / labels.size
    np.testing.assert_allclose(row["region_fractions"], fractions, atol=1e-6)
    to_photo = np.asarray(row["crop_to_photo"]).reshape(2, 3)
    landmarks = np.asarray(row["landmarks_68"]).reshape(68, 2)
    inside = np.linalg.solve(to_photo[:, :2], (landmarks - to_photo[:, 2]).T).T
    for label, members in ((Label.NOSE, slice(28, 31)), (Label.MOUTH, slice(48, 68)), (Label.EYES, slice(36, 48))):
        y, x = np.nonzero(labels == label)
        centre = inside[members].mean(axis=0)
        assert len(x) > 50 and np.hypot(x.mean() + 0.5 - centre[0], y.mean() + 0.5 - centre[1]) < 10
    assert 0 <= row["occlusion"] < 0.15


def test_rows_reproject_to_the_landmarks(run):
    """Camera, pose and vertices of a row are enough to find the face in the photograph."""
    rows = rows_of(run[1]).query("status == 'ok'")
    from raylib.morphable.model import load_prior

    prior = load_prior()
    inner = prior.landmark_verts[17:]
    for row in rows.to_dict("records"):
        tensor = {
            k: torch.tensor(np.asarray(row[k], dtype=np.float32)) for k in ("R", "T_mm", "principal_px", "verts_mm")
        }
        camera = Camera(
            tensor["R"].reshape(1, 3, 3),
            tensor["T_mm"][None],
            torch.tensor([row["focal_px"]]),
            tensor["principal_px"][None],
        )
        projected = camera.project(tensor["verts_mm"].reshape(1, -1, 3)[:, inner])[0].numpy()
        landmarks = np.asarray(row["landmarks_68"]).reshape(68, 2)
        eyes = np.linalg.norm(landmarks[36] - landmarks[45])
        assert np.linalg.norm(projected - landmarks[17:], axis=1).mean() < 0.04 * eyes
        assert row["landmark_nme"] == pytest.approx(row["landmark_error_px"] / eyes, rel=1e-3)
        assert row["landmark_nme"] < 0.04 and abs(row["yaw_deg"]) < 10


def test_the_same_face_gives_the_same_shape_however_it_is_stored(run):
    rows = rows_of(run[1])
    names = rows["image_uri"].str.rsplit("/", n=1).str[-1]
    by_name = {n: np.asarray(v) for n, v, s in zip(names, rows["verts_mm"], rows["status"], strict=True) if s == "ok"}
    plain = by_name["ok plain.png"].reshape(-1, 3)
    for name in ("ok turned.jpg", "ok grüße & <b>'quotes'.jpg", "ok grey.webp"):
        assert np.linalg.norm(by_name[name].reshape(-1, 3) - plain, axis=1).mean() < 1.5  # landmarks jitter


def test_run_json_says_what_was_done(run):
    record = json.loads((run[1] / "run.json").read_text())
    assert record["images"] == 13 and record["faces"] == 6
    assert record["images_by_status"] == {"ok": 5, "no_face": 2, "decode_error": 3, "too_large": 1, "error": 2} | {
        "ok": 5
    }
    assert record["config"]["faces"]["detector"] == "hog" and record["config_sha256"] and record["weights_sha256"]
    assert {"ray", "torch", "python", "physface"} <= set(record["versions"])
    table = run[2]
    assert "two faces.png" in table and "decode_error" in table and "13 images" in table


def test_no_temporary_files_are_left(run):
    assert [p for p in run[1].rglob("*") if p.name.startswith(".") or p.suffix == ".tmp"] == []


def test_a_rerun_does_only_what_is_new(run, folder, photographs):
    config, output, _ = run
    before = sha256_of_files(output)
    del before["run.json"]
    console = quiet()
    assert reconstruct(config, console) == 0
    assert "13 of 13 images are done already" in console.file.getvalue()
    after = sha256_of_files(output)
    del after["run.json"]
    assert after == before


@pytest.mark.slow
def test_done_again_elsewhere_the_files_are_the_same_bytes(run, tmp_path):
    config, output, _ = run
    single = replace(
        config, input=str(Path(config.input) / "two faces.png"), output=str(tmp_path), images_per_shard=1
    )
    assert reconstruct(single, quiet()) == 0
    again, first = (sha256_of_files(folder / "meshes") for folder in (tmp_path, output))
    assert len(again) == 12
    assert again == {name: first.get(name) for name in again}


def test_another_configuration_does_not_mix_with_old_rows(run):
    config, *_ = run
    with pytest.raises(ConfigError, match="another configuration"):
        reconstruct(replace(config, fov_deg=20), quiet())
    moved = replace(config, input="elsewhere", output="else", images_per_shard=9, detect_actors=3)
    assert config_sha256(moved, "m") == config_sha256(config, "m") != config_sha256(config, "n")


@pytest.mark.slow
def test_a_time_limit_gives_rows_not_a_dead_job(folder, tmp_path, ray_session):
    config = ReconstructConfig(str(folder / "ok plain.png"), str(tmp_path), image_timeout_s=0.001)
    assert reconstruct(config, quiet()) == 1  # the only image failed: less than expected
    (row,) = rows_of(tmp_path).to_dict("records")
    assert row["status"] == "timeout" and "0.001 seconds" in row["error_message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "no/such/folder"}, "no/such/folder' does not exist"),
        ({"input": "EMPTY"}, "holds no image file"),
        ({"output": "/proc/nothing/here"}, "cannot be written"),
        ({"output": "FILE"}, "cannot be written"),
        ({"morphable_model": "no/such/model.bin"}, "no/such/model.bin"),
        ({"morphable_model": "TEXT.bin"}, "TEXT.bin"),
        ({"morphable_model": "TEXT.h5"}, "TEXT.h5"),
        ({"morphable_model": "TEXT.mat"}, "TEXT.mat"),
        ({"morphable_model": "EMPTY"}, "EMPTY"),
    ],
)
def test_what_cannot_work_stops_before_any_work(folder, tmp_path, change, message):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("x")
    for suffix in ("bin", "h5", "mat"):
        (tmp_path / f"TEXT.{suffix}").write_text("not a model at all, only text")
    values = {"input": str(folder), "output": str(tmp_path / "out")} | {
        k: str(tmp_path / v) if v.isupper() or v.startswith("TEXT") else v for k, v in change.items()
    }
    with pytest.raises(ConfigError) as caught:
        reconstruct(ReconstructConfig(**values, method="landmarks"), quiet())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "faces").exists()


def test_more_actors_than_cpus_is_an_error_not_a_hang(folder, tmp_path, ray_session):
    config = ReconstructConfig(
        str(folder), str(tmp_path / "out"), detect_actors=9, images_per_shard=1, cpus_per_actor=2
    )
    with pytest.raises(ConfigError, match=r"need [\d.]+ CPUs"):
        reconstruct(config, quiet())


@pytest.mark.slow
def test_the_command_line_exits_with_2_and_one_sentence(tmp_path):
    command = [sys.executable, "jobs/reconstruct.py", "--input", str(tmp_path / "missing"), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "does not exist" in done.stderr


def test_rows_refuse_columns_that_the_schema_lacks():
    with pytest.raises(KeyError, match="typo"):
        to_parquet([{"image_uri": "x", "typo": 1}])
    empty = pq.read_table(io.BytesIO(to_parquet([{"image_uri": "x", "status": "no_face"}])))
    assert empty.schema.remove_metadata().equals(SCHEMA.remove_metadata())  # nulls keep their types
