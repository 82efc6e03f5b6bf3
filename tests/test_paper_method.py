"""The paper's MeshNet in the reconstruction job."""

import numpy as np
import pytest
import torch
from PIL import Image

from raylib.config import FaceSettings, PaperSettings, ReconstructConfig
from raylib.detection.alignment import crop_face
from raylib.detection.detector import FaceDetector
from raylib.fitting.estimates import FaceBatch
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.paper.meshnet import MeshNet
from raylib.paper.method import PaperMethod
from raylib.paper.scene import TemplateScene, TrainedMeshnet, network_input, save_meshnet
from raylib.paper.templates import load_template
from raylib.runtime.command import parse
from raylib.segmentation.segmenter import FaceSegmenter

PX = 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that was never trained: what it says is small, and the same every time."""
    torch.manual_seed(0)
    template = load_template("hemisphere")
    path = tmp_path_factory.mktemp("weights") / "meshnet.safetensors"
    save_meshnet(TrainedMeshnet(MeshNet(2113, PX), template, PaperSettings()), path)
    return path


@pytest.fixture(scope="module")
def faces(astronaut):
    found = FaceDetector(FaceSettings(detector="hog"))(astronaut)[0]
    crop = crop_face(astronaut, found.landmarks)
    height, width = astronaut.shape[:2]
    return FaceBatch(
        torch.from_numpy(found.landmarks)[None],
        torch.tensor([900.0]),
        torch.tensor([[width / 2, height / 2]]),
        crop.rgb[None],
        crop.to_photo[None],
        FaceSegmenter().segment(crop.rgb[None]),
    )


def test_cameras_go_to_the_crop_and_back(faces):
    R = rotation_from_euler_deg(torch.tensor([[12.0, -5.0, 8.0]]))
    camera = Camera(R, torch.tensor([[10.0, -20.0, 700.0]]), torch.tensor([900.0]), faces.principal_px)
    back = faces.photo_camera(faces.crop_camera(camera, 64), 64)
    for ours, theirs in zip(vars(back).values(), vars(camera).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


def test_the_mesh_lies_in_the_photograph_where_the_network_saw_it(weights, faces):
    config = ReconstructConfig("in", "out", method="meshnet_paper", meshnet_weights=str(weights))
    method = PaperMethod(config)
    estimates = method(faces)
    assert bool(estimates.usable().all())
    trained, template = method._trained, load_template("hemisphere")
    small = np.asarray(Image.fromarray(faces.crops[0]).resize((PX, PX), Image.Resampling.BOX))
    labels = np.asarray(Image.fromarray(faces.labels[0]).resize((PX, PX), Image.Resampling.NEAREST))
    offsets, _ = trained.network(network_input(small[None], labels[None]))
    scene = TemplateScene(template, PaperSettings(), PX)
    in_small = scene.camera(1).project(template.verts + offsets)[0].detach().numpy()
    in_crop = in_small * (faces.crops.shape[1] / PX)
    expected = in_crop @ faces.crop_to_photo[0][:, :2].T + faces.crop_to_photo[0][:, 2]
    seen = estimates.camera.project(estimates.verts_mm)[0].numpy()
    assert np.abs(seen - expected).max() < 0.02
    # Canonical space: a head's size, the front before the eyes.
    size = np.ptp(estimates.verts_mm[0].numpy(), axis=0)
    assert 200 < size[0] < 300 and 200 < size[1] < 300
    assert 0 < float(estimates.verts_mm[0, 4, 2]) < 60


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "meshnet_weights is '', expected a file"),
        ({"meshnet_weights": "w", "segment": False}, "segment is False"),
        ({"meshnet_weights": "w", "refine": 3}, "refine is 3, expected 0"),
    ],
)
def test_what_the_method_needs_is_asked_for(changes, sentence, capsys):
    words = [f"--{name}={str(value).lower()}" for name, value in changes.items()]
    with pytest.raises(SystemExit):
        parse(ReconstructConfig, "", ["--input=a", "--output=b", "--method=meshnet_paper", *words])
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_the_job_reconstructs_with_it(weights, photographs, ray_session, tmp_path):
    import io
    import json

    import pyarrow.parquet as pq
    import trimesh
    from rich.console import Console

    from raylib.reconstruction.run import reconstruct

    config = ReconstructConfig(
        str(photographs / "astronaut.png"), str(tmp_path / "out"), method="meshnet_paper",
        meshnet_weights=str(weights), faces=FaceSettings(detector="hog"), detect_actors=1, reconstruct_actors=1,
    )  # fmt: skip
    assert reconstruct(config, Console(file=io.StringIO())) == 0
    row = pq.read_table(tmp_path / "out/faces").to_pylist()[0]
    assert (row["status"], row["method"], row["morphable_model"]) == ("ok", "meshnet_paper", "meshnet_paper")
    assert np.isnan(row["landmark_error_px"])  # it knows no landmarks
    mesh = trimesh.load(tmp_path / "out" / row["glb_uri"]).to_mesh()
    assert len(mesh.faces) == 4096
    assert json.loads((tmp_path / "out/run.json").read_text())["config"]["method"] == "meshnet_paper"
