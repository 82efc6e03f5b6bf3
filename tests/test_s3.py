"""The reconstruction job from bucket to bucket, against a real S3 server on loopback."""

import io
import json

import duckdb
import fsspec
import pyarrow.parquet as pq
import pytest
import trimesh
from rich.console import Console

from raylib.config import FaceSettings, ReconstructConfig
from raylib.errors import ConfigError
from raylib.reconstruction.run import reconstruct

SECRET = "a-secret-that-must-not-show"


@pytest.fixture(scope="module")
def s3():
    """Storage options of an S3 server that runs as long as the module's tests."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "access", "secret": SECRET, "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    filesystem = fsspec.filesystem("s3", **options)
    for bucket in ("photos", "results"):  # moto keeps the buckets of other modules' servers in this process
        filesystem.makedirs(bucket, exist_ok=True)
    yield options, filesystem
    server.stop()


def test_bucket_to_bucket(s3, photographs, ray_session):
    options, filesystem = s3
    filesystem.pipe("photos/people/a b/porträt.png", (photographs / "astronaut.png").read_bytes())
    filesystem.pipe("photos/people/cup.png", (photographs / "coffee.png").read_bytes())
    filesystem.pipe("photos/people/broken.jpg", b"no picture")
    filesystem.pipe("photos/people/list.txt", b"no input")
    hog = FaceSettings(detector="hog")
    config = ReconstructConfig("s3://photos/people", "s3://results/run 1", faces=hog, storage_options=options)
    console = Console(file=io.StringIO(), width=200)
    assert reconstruct(config, console) == 0

    tables = [
        pq.read_table(io.BytesIO(filesystem.cat(p))) for p in filesystem.ls("results/run 1/faces", detail=False)
    ]
    rows = {row["image_uri"]: row for table in tables for row in table.to_pylist()}
    assert {uri: row["status"] for uri, row in rows.items()} == {
        "s3://photos/people/a b/porträt.png": "ok",
        "s3://photos/people/cup.png": "no_face",
        "s3://photos/people/broken.jpg": "decode_error",
    }
    row = rows["s3://photos/people/a b/porträt.png"]
    glb = filesystem.cat(f"results/run 1/{row['glb_uri']}")
    assert len(trimesh.load(io.BytesIO(glb), file_type="glb").to_mesh().faces) == 4096
    for column in ("obj_uri", "mtl_uri", "texture_uri", "preview_uri"):
        assert filesystem.size(f"results/run 1/{row[column]}") > 0

    duckdb.register_filesystem(filesystem)
    counted = duckdb.sql("select count(*) from 's3://results/run 1/faces/*.parquet'").fetchall()
    assert counted == [(3,)]

    record = filesystem.cat("results/run 1/run.json").decode()
    assert json.loads(record)["images"] == 3
    assert SECRET not in record and SECRET not in console.file.getvalue()

    again = Console(file=io.StringIO(), width=200)
    assert reconstruct(config, again) == 0
    assert "3 of 3 images are done already" in again.file.getvalue()


@pytest.mark.parametrize(("change", "message"), [("input", "does not exist"), ("output", "cannot be written")])
def test_a_missing_bucket_is_one_sentence(s3, change, message):
    options, filesystem = s3
    filesystem.pipe("photos/other/cup.png", b"x")
    places = {"input": "s3://photos/other", "output": "s3://results/other"} | {change: "s3://no-such-bucket/x"}
    with pytest.raises(ConfigError, match=message) as caught:
        reconstruct(ReconstructConfig(**places, storage_options=options), Console(file=io.StringIO()))
    assert SECRET not in str(caught.value)
