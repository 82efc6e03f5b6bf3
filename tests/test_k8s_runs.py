"""The RayJobs' entry points, run with their arguments on clusters of several nodes with the overlays' resources."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from face_drawings import write_fasseg_v3
from k8s_manifests import JOBS, OVERLAYS, build, cluster_spec, named, nodes, places, write_settings
from kuberay_cluster import LocalCluster
from moto.server import ThreadedMotoServer
from test_celebamask import write_palette

from jobs.demo import write_photographs
from raylib.segmentation.segmenter import load_weights

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


@pytest.fixture
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
    # All servers of one process share their buckets.
    if filesystem.exists("physface-example"):
        filesystem.rm("physface-example", recursive=True)
    filesystem.invalidate_cache()
    filesystem.makedirs("physface-example", exist_ok=True)
    yield secret | address, filesystem
    server.stop()


def _storage(filesystem: Any, place: str) -> tuple[Any, str]:
    """Returns the filesystem of a place of the overlay, and the path there."""
    return (
        (filesystem, place.removeprefix("s3://")) if place.startswith("s3://") else (fsspec.filesystem("file"), place)
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_entry_point_to_its_end(overlay, bucket, tmp_path):
    """All four RayJobs, one after the other, on one cluster with all nodes that the overlay may have."""
    if overlay != "cpu-small" and not os.environ.get("ALL_OVERLAYS"):
        pytest.skip("takes minutes; ALL_OVERLAYS=1 runs it too")
    credentials, s3 = bucket
    documents = build(overlay)
    variables = {name: value.replace("/data", str(tmp_path / "data")) for name, value in places(documents).items()}
    changes = SMALLER
    if cluster_gpus := sum(node["GPU"] for node in nodes(cluster_spec(named(documents, "RayJob", "train-unet")))):
        # The nodes' GPUs are but numbers here, and training would ask CUDA for them.
        changes = SMALLER | {
            name: SMALLER[name] | {"use_gpu": False} for name in ("train_unet.yaml", "train_meshnet.yaml")
        }
    settings = tmp_path / "settings"
    write_settings(documents, settings, changes)
    data = tmp_path / "data"
    write_fasseg_v3(data / "fasseg", persons=4, shots=3, size=48)
    (data / "celebamask").mkdir()
    write_palette(data / "celebamask", [f"{n:02d}" for n in range(8)])
    write_photographs(tmp_path / "photographs")
    storage, portraits = _storage(s3, variables["PHYSFACE_INPUT"])
    storage.makedirs(portraits, exist_ok=True)
    for path in (tmp_path / "photographs").iterdir():
        storage.pipe(f"{portraits}/{path.name}", path.read_bytes())

    def job(name: str) -> dict[str, Any]:
        return named(documents, "RayJob", name)

    def record(storage: Any, folder: str) -> dict[str, Any]:
        text = storage.cat(f"{folder}/run.json").decode()
        assert credentials["AWS_SECRET_ACCESS_KEY"] not in text
        return json.loads(text)

    cluster = LocalCluster(job("reconstruct"), tmp_path, variables | credentials)
    try:
        logs = {name: cluster.submit(job(name), settings) for name in JOBS}
        again = cluster.submit(job("reconstruct"), settings)
    finally:
        cluster.stop()
    assert credentials["AWS_SECRET_ACCESS_KEY"] not in "".join(logs.values())
    assert "5 images" in logs["reconstruct"] and "6 faces in" in logs["synthesize"]
    # What a second attempt of the job finds: nothing to do.
    assert "5 of 5 images are done already" in again

    storage, faces = _storage(s3, variables["PHYSFACE_OUTPUT"])
    run = record(storage, faces)
    assert run["images"] == 5 and run["images_by_status"]["decode_error"] == 1
    assert run["config"]["gpus_per_actor"] == (0.08 if cluster_gpus else 0)
    rows = [
        row
        for part in storage.ls(f"{faces}/faces", detail=False)
        for row in pq.read_table(io.BytesIO(storage.cat(part))).to_pylist()
    ]
    assert {row["image_uri"].rpartition("/")[2] for row in rows} == {
        path.name for path in (tmp_path / "photographs").iterdir()
    }
    done = [row for row in rows if row["status"] == "ok"]
    assert done and all(storage.size(f"{faces}/{row['glb_uri']}") > 0 for row in done)

    storage, synthetic = _storage(s3, variables["PHYSFACE_SYNTHETIC"])
    assert record(storage, synthetic)["rows"] == 6
    parts = storage.ls(f"{synthetic}/faces", detail=False)
    assert len(parts) == 2
    assert sum(pq.read_metadata(io.BytesIO(storage.cat(part))).num_rows for part in parts) == 6

    local = fsspec.filesystem("file")
    storage, checkpoints = _storage(s3, variables["PHYSFACE_CHECKPOINTS"])
    network, _ = load_weights(data / "unet" / "unet.safetensors")
    assert network.widths == (8, 16, 32)
    for folder, name in (("unet", ""), ("meshnet", "meshnet_paper")):
        config = record(local, str(data / folder))["config"]
        assert config["num_workers"] == 2 and config["storage_path"] == variables["PHYSFACE_CHECKPOINTS"]
        assert storage.glob(f"{checkpoints}/{name or config['name']}/checkpoint_*")
    assert (data / "meshnet" / "meshnet.safetensors").stat().st_size > 10**6
