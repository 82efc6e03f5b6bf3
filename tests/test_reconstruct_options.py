"""What users choose for a bulk run: doing failures again, privacy, several inputs, when the job counts as failed."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fault_runs import assert_complete, make_photographs, rows_of
from PIL import Image
from rich.console import Console

from raylib.config import FaceSettings, ReconstructConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.reconstruction.finished import parts
from raylib.reconstruction.run import reconstruct

HOG_ONLY = FaceSettings(detector="hog")

pytestmark = pytest.mark.slow


def run(photos: Path | list[str], output: Path, **settings) -> tuple[int, str]:
    source = photos if isinstance(photos, list) else str(photos)
    console = Console(file=io.StringIO(), width=300)
    status = reconstruct(ReconstructConfig(source, str(output), faces=HOG_ONLY, **settings), console)
    return status, console.file.getvalue()


@pytest.fixture
def photos(tmp_path, photographs) -> Path:
    folder = tmp_path / "photos of Ada"
    make_photographs(folder, photographs / "astronaut.png", 3)
    (folder / "late.jpg").write_bytes(b"")  # as if read while it was uploaded
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_retry_replaces_rows_where_they_are(photos, tmp_path, ray_session):
    output = tmp_path / "out"
    status, _ = run(photos, output, images_per_shard=5, detect_actors=1)
    assert status == 0
    images = {str(p) for p in photos.iterdir()}
    before = assert_complete(output, images)
    assert before[str(photos / "late.jpg")] == before[str(photos / "broken.png")] == "decode_error"
    part = next((output / "faces").glob("*.parquet"))
    shutil.copy(photos / "good 000.jpg", photos / "late.jpg")

    assert "5 of 5 images are done already" in run(photos, output)[1]
    assert assert_complete(output, images) == before

    status, text = run(photos, output, retry="failed")
    assert status == 0 and "3 of 5 images are done already, 2 are done again" in text
    after = assert_complete(output, images)
    assert after == before | {str(photos / "late.jpg"): "ok"}
    assert list((output / "faces").glob("*.parquet")) == [part]  # rewritten in one step
    assert json.loads((output / "run.json").read_text())["processed_in_this_run"] == 2

    (photos / "broken.png").unlink()  # what is gone keeps its row
    assert "5 images" in run(photos, output, retry=["decode_error", "timeout"])[1]
    assert assert_complete(output, images) == after
    with pytest.raises(ConfigError, match="retry is 'lost', expected failed or one of ok"):
        ReconstructConfig("a", "b", retry="lost")


def test_too_many_failures_are_exit_status_1(photos, tmp_path, ray_session):
    assert run(photos, tmp_path / "out", max_failed_fraction=0.4)[0] == 0
    status, text = run(photos, tmp_path / "out", max_failed_fraction=0.39)
    assert status == 1 and "2 of 5 images failed, more than max_failed_fraction = 0.39 allows" in text
    assert (tmp_path / "out" / "run.json").exists()


def test_no_pixels_leaves_the_shape_and_nothing_of_the_photograph(photos, tmp_path, ray_session):
    run(photos, tmp_path / "all", include="good*")
    run(photos, tmp_path / "shape", include="good*", privacy="no_pixels")
    files = [path for path in (tmp_path / "shape" / "meshes").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".png", ".glb", ".obj"}
    for path in files:
        if path.suffix == ".png":
            assert np.unique(np.asarray(Image.open(path))).tolist() == [128]
            assert "preview" not in path.name
        if path.suffix == ".glb":
            ours = trimesh.load(path).to_mesh()
            full = trimesh.load(tmp_path / "all" / path.relative_to(tmp_path / "shape")).to_mesh()
            np.testing.assert_array_equal(ours.vertices, full.vertices)
            assert np.unique(np.asarray(ours.visual.material.baseColorTexture)).tolist() == [128]
        if path.suffix == ".obj":
            lines = [line.split() for line in path.read_text().splitlines() if line.startswith("v ")]
            assert len({tuple(line[4:]) for line in lines}) == 1
    rows = [row for _, table in parts(Location(str(tmp_path / "shape"))) for row in table.to_pylist()]
    assert len(rows) == 3
    assert all(r["vertex_colors"] is None and r["preview_uri"] is None and r["verts_mm"] for r in rows)


def test_landmarks_only_makes_no_mesh(photos, tmp_path, ray_session):
    run(photos, tmp_path / "out", privacy="landmarks_only")
    assert not (tmp_path / "out" / "meshes").exists()
    rows = [row for _, table in parts(Location(str(tmp_path / "out"))) for row in table.to_pylist()]
    good = [r for r in rows if r["status"] == "ok"]
    assert len(rows) == 5 and len(good) == 3
    for row in good:
        assert len(row["landmarks_68"]) == 136 and len(row["face_box"]) == 4
        assert row["verts_mm"] is None and row["identity"] is None and row["glb_uri"] is None


def test_hidden_names_are_nowhere_in_the_output_and_a_rerun_knows_them(photos, tmp_path, ray_session):
    output = tmp_path / "out"
    (photos / "dangling.png").symlink_to(photos / "vanished.png")
    run(photos, output, hide_names=True, images_per_shard=2)
    for path in output.rglob("*"):
        if path.is_file():
            for word in (b"of Ada", b"good 0", b"broken", b"dangling", b"vanished"):
                assert word not in path.read_bytes() and word.decode() not in path.name, path
    rows = rows_of(output)
    assert all(row["image_uri"].startswith("sha256:") for row in rows) and len(rows) == 6
    assert "6 of 6 images are done already" in run(photos, output, hide_names=True)[1]
    with pytest.raises(ConfigError, match="another configuration"):
        run(photos, output)


def test_several_inputs_and_images_that_come_later(photos, tmp_path, ray_session):
    listed = tmp_path / "list.txt"
    listed.write_text("photos of Ada/good 001.jpg\nphotos of Ada/good 002.jpg\n")
    inputs = [str(listed), str(photos / "good 000.jpg"), str(photos / "good 001.jpg")]
    assert run(inputs, tmp_path / "out")[0] == 0
    good = {str(p) for p in photos.glob("good*")}
    assert set(assert_complete(tmp_path / "out", good).values()) == {"ok"}
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "faces").iterdir()}
    assert "5 images" in run(photos, tmp_path / "out")[1]
    assert_complete(tmp_path / "out", {str(p) for p in photos.iterdir()})
    assert first.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "faces").iterdir()}.items()


def test_an_image_that_comes_during_the_run_is_done_in_another_pass(photos, tmp_path, ray_session, monkeypatch):
    from raylib.reconstruction import run as module

    settle, calls = module.settle, []

    def settle_late(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # the first pass is over
            shutil.copy(photos / "good 000.jpg", photos / "uploaded.jpg")
        return settle(*args, **kwargs)

    monkeypatch.setattr(module, "settle", settle_late)
    assert run(photos, tmp_path / "out")[0] == 0
    statuses = assert_complete(tmp_path / "out", {str(p) for p in photos.iterdir()})
    assert statuses[str(photos / "uploaded.jpg")] == "ok"
