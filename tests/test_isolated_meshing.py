"""A shard whose meshing kills or stops its process comes through, and only the image at fault pays."""

import os
import pickle
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from raylib.config import ReconstructConfig
from raylib.io.storage import Location
from raylib.pipeline import load_method
from raylib.reconstruction.detect_stage import AnalysedImage
from raylib.reconstruction.mesh_actor import MeshStage
from raylib.reconstruction.mesh_stage import MeshingSettings, ReconstructStage


def make(tally: bytes):
    """Returns a meshing that dies of or stops at certain images, and counts in a file how often it meets each."""
    path = tally.decode()

    def rows(images: list[bytes]) -> list[dict]:
        done = []
        for image in map(pickle.loads, images):
            if image.status == "ok":
                with open(path, "a") as file:  # noqa: PTH123
                    file.write(f"{image.uri}\n")
                if image.uri == "aborts":
                    os.abort()
                if image.uri == "raises":
                    raise RuntimeError("no good")
                if image.uri == "hangs":
                    time.sleep(600)
            names = ("status", "error_stage", "error_message")
            done.append({"image_uri": image.uri} | {name: getattr(image, name) or None for name in names})
        return done

    return rows


def test_warming_up_does_all_that_a_face_needs(tmp_path, monkeypatch):
    """A face's time limit must not pay for compiling kernels: the face that is not there has to come through."""
    config = ReconstructConfig("in", str(tmp_path))
    stage = ReconstructStage(load_method(config), Location(str(tmp_path)), MeshingSettings(config, ""))
    textured = []
    texturer = stage._pipeline._texturer
    monkeypatch.setattr(stage._pipeline, "_texturer", lambda *args: textured.append(texturer(*args)) or textured[-1])
    stage.warm_up()
    assert len(textured) == 1 and np.isfinite(textured[0].vertex_colors).all()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_shard_that_kills_its_process_is_not_tried_for_ever(tmp_path, ray_session):
    uris = ["a", "aborts", "b", "hangs", "c", "raises"]
    images = [pickle.dumps(AnalysedImage(uri, "ok")) for uri in uris]
    shard = pa.table(
        {
            "shard_id": ["s"],
            "again": [False],
            "shard": pa.array([images], pa.list_(pa.large_binary())),
        }
    )
    tally = tmp_path / "tally"
    stage = MeshStage(make, ray.put(str(tally).encode()), Location(str(tmp_path / "out")), 2.0)
    (done,) = stage(shard).to_pylist()
    assert done["images"] == 6 and done["faces"] == 3
    assert pickle.loads(done["counts"]) == {"ok": 3, "native_crash": 1, "timeout": 1, "error": 1}
    rows = pq.read_table(tmp_path / "out" / "faces" / "part-s.parquet").to_pylist()
    assert [row["image_uri"] for row in rows] == uris
    by_uri = {row["image_uri"]: (row["status"], row["error_stage"]) for row in rows}
    assert by_uri == dict.fromkeys("abc", ("ok", None)) | {
        "aborts": ("native_crash", "mesh"),
        "hangs": ("timeout", "mesh"),
        "raises": ("error", "mesh"),
    }
    met = tally.read_text().split()
    assert max(met.count(uri) for uri in uris) == 2 and met.count("raises") == 1
