"""The RayJobs' entry points, run with their arguments on clusters of several nodes with the overlays' resources."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from face_drawings import write_fasseg_v3
from k8s_manifests import build, cluster_spec, named, nodes, places, write_settings
from kuberay_cluster import LocalCluster
from moto.server import ThreadedMotoServer
from test_celebamask import write_palette

from jobs.demo import write_photographs
from raylib.segmentation import load_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PHOTOGRAPHS = {"fasseg_versions": ["V3"], "fasseg_test": ["V3/01"], "celebamask_test": 2, "celebamask_validation": 2}
SMALLER = {
    "train_unet.yaml": {
        "widths": [8, 16, 32],
        "stages": [{"size_px": 32, "epochs": 1}],
        "batch_size": 2,
        "cache_px": 40,
        "precision": "float32",
        "data": PHOTOGRAPHS,
    },
    # VGG19's weights are neither shipped nor downloaded by tests.
    "train_meshnet.yaml": {
        "epochs": 1,
        "image_px": 48,
        "images_per_worker": 2,
        "data": {"labelled": PHOTOGRAPHS | {"fasseg_validation": ["V3/02"]}, "crop": False},
        "paper": {"loss": {"vgg": 0}},
    },
    "synthesize.yaml": {"count": 6, "rows_per_part": 3, "settings": {"size_px": 64}, "contact_sheet": 0},
}
"""What the trainings of the tests change in the settings of a cluster: they are to end in seconds."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[dict[str, str], Any]]:
    """An S3 server on loopback: what the Secret physface-s3 and the address say, and its filesystem."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secret = {"AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-not-show"}
    address = {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    filesystem = fsspec.filesystem(
        "s3", key=secret["AWS_ACCESS_KEY_ID"], secret=secret["AWS_SECRET_ACCESS_KEY"],
        client_kwargs={"endpoint_url": address["AWS_ENDPOINT_URL"], "region_name": "eu-central-1"},
    )  # fmt: skip
    filesystem.makedirs("physface-example", exist_ok=True)
    yield secret | address, filesystem
    server.stop()


def test_reconstruct_from_bucket_to_bucket_with_gpu_nodes(bucket, tmp_path):
    credentials, filesystem = bucket
    documents = build("gpu")
    write_photographs(tmp_path / "photographs")
    for path in (tmp_path / "photographs").iterdir():
        filesystem.pipe(f"physface-example/portraits/{path.name}", path.read_bytes())
    write_settings(documents, tmp_path / "settings")
    job = named(documents, "RayJob", "reconstruct")
    assert [node["GPU"] for node in nodes(cluster_spec(job))] == [0, 1, 1]
    cluster = LocalCluster(job, tmp_path, places(documents) | credentials)
    try:
        log = cluster.submit(job, tmp_path / "settings")
    finally:
        cluster.stop()
    record = filesystem.cat("physface-example/faces/run.json").decode()
    assert json.loads(record)["images"] == 5 and json.loads(record)["config"]["gpus_per_actor"] == 0.08
    assert credentials["AWS_SECRET_ACCESS_KEY"] not in record + log
    parts = filesystem.ls("physface-example/faces/faces", detail=False)
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(filesystem.cat(part))).to_pylist()]
    assert {row["image_uri"] for row in rows} == {
        f"s3://physface-example/portraits/{path.name}" for path in (tmp_path / "photographs").iterdir()
    }
    done = [row for row in rows if row["status"] == "ok"]
    assert done and all(filesystem.size(f"physface-example/faces/{row['glb_uri']}") > 0 for row in done)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Iterator[tuple[LocalCluster, Path, Path]]:
    """The overlay cpu-small: its cluster, the folder that is /data there, and that which is /etc/physface."""
    home = tmp_path_factory.mktemp("laptop")
    documents = build("cpu-small")
    data, settings = home / "data", home / "settings"
    write_photographs(home / "photographs")
    variables = {name: value.replace("/data", str(data)) for name, value in places(documents).items()}
    variables["PHYSFACE_INPUT"] = str(home / "photographs")
    write_settings(documents, settings, SMALLER)
    write_fasseg_v3(data / "fasseg", persons=4, shots=3, size=48)
    (data / "celebamask").mkdir()
    write_palette(data / "celebamask", [f"{n:02d}" for n in range(8)])
    cluster = LocalCluster(named(documents, "RayJob", "reconstruct"), home, variables)
    yield cluster, data, settings
    cluster.stop()


def test_reconstruct_from_folder_to_folder(laptop):
    cluster, data, settings = laptop
    job = named(build("cpu-small"), "RayJob", "reconstruct")
    log = cluster.submit(job, settings)
    record = json.loads((data / "faces" / "run.json").read_text())
    assert (
        record["images"] == 5
        and record["images_by_status"]["ok"] >= 1
        and record["images_by_status"]["decode_error"] == 1
    )
    assert "5 images" in log
    # What a second attempt of the job finds: nothing to do.
    assert "5 of 5 images are done already" in cluster.submit(job, settings)


def test_train_unet(laptop):
    cluster, data, settings = laptop
    cluster.submit(named(build("cpu-small"), "RayJob", "train-unet"), settings)
    network, _ = load_weights(data / "unet" / "unet.safetensors")
    assert network.widths == (8, 16, 32)
    record = json.loads((data / "unet" / "run.json").read_text())
    assert record["config"]["num_workers"] == 2 and record["config"]["storage_path"] == str(data / "train")
    assert list((data / "train" / "unet_small").glob("checkpoint_*"))


def test_train_meshnet(laptop):
    cluster, data, settings = laptop
    cluster.submit(named(build("cpu-small"), "RayJob", "train-meshnet"), settings)
    record = json.loads((data / "meshnet" / "run.json").read_text())
    assert record["config"]["num_workers"] == 2 and record["config"]["network"] == "meshnet_paper"
    assert (data / "meshnet" / "meshnet.safetensors").stat().st_size > 10**6
    assert list((data / "train" / "meshnet_paper").glob("checkpoint_*"))


def test_synthesize(laptop):
    cluster, data, settings = laptop
    log = cluster.submit(named(build("cpu-small"), "RayJob", "synthesize"), settings)
    record = json.loads((data / "synthetic" / "run.json").read_text())
    assert record["rows"] == 6 and record["config"]["actors"] == 2
    parts = sorted((data / "synthetic" / "faces").glob("*.parquet"))
    assert len(parts) == 2 and sum(pq.read_metadata(part).num_rows for part in parts) == 6
    assert "6 faces in" in log
