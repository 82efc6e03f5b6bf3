"""The training of the paper's networks, step by step and without Ray."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from raylib.config import (
    TRAIN_MESHNET,
    BabySettings,
    LossWeights,
    PaperSettings,
    TermWeights,
    TrainBabyMeshnetConfig,
    TrainPaperConfig,
)
from raylib.datasets.face_set import FaceSet
from raylib.datasets.rendered_faces import render_faces
from raylib.errors import ConfigError
from raylib.geometry.topology import Topology
from raylib.paper.meshnet import MeshNet
from raylib.paper.scene import TemplateScene, TrainedMeshnet, load_meshnet, network_input, save_meshnet
from raylib.paper.templates import load_template
from raylib.paper.vgg import random_vgg
from raylib.runtime.command import parse
from raylib.segmentation.labels import FASSEG_COLOURS, Label
from raylib.training.loop import (
    BatchPlan,
    Schedule,
    TrainState,
    Worker,
    load_checkpoint,
    new_state,
    save_checkpoint,
    train_step,
)
from raylib.training.paper.loss import PaperLoss
from raylib.training.paper.task import adam
from raylib.training.paper.tasks import BabyTask, FaceTask, flying_edges, masked_psnr, silhouette_iou

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "meshnet_curve.json"
PX = 46
NUM_TRAIN = 8


def _task(vgg: bool = False, px: int = PX, count: int = NUM_TRAIN) -> FaceTask:
    faces = render_faces(count, px)
    config = TrainPaperConfig(image_px=px, paper=PaperSettings(loss=LossWeights(vgg=0.0)))
    task = FaceTask(config, faces, faces.select(slice(0, 3)), Worker())
    if vgg:
        task.loss = PaperLoss(task.scene, LossWeights(), random_vgg())
    return task


def _fresh(task: FaceTask | BabyTask) -> TrainState:
    network = task.new_network()
    return new_state(network, adam(network))


def _state(task: FaceTask, seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    return _fresh(task)


def _train(task: FaceTask, state: TrainState, epochs: int, images: int = 2) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    steps = NUM_TRAIN // images
    plan = BatchPlan(np.ones(NUM_TRAIN, np.uint8), images, steps, seed=0)
    schedule = Schedule(8 * steps, 0, 5e-4, last=0.1)
    rows = []
    while state.epoch < epochs:
        for number, chosen in enumerate(plan.batches(state.epoch)):
            at = state.epoch * steps + number
            rows.append(train_step(state, task.losses, [chosen], schedule.at(at), at / (8 * steps)))
        state.epoch += 1
    return rows


def test_the_loss_is_equation_5_of_its_terms():
    task = _task(vgg=True)
    terms = task.losses(_state(task).model, np.arange(3), 0.0)
    assert list(terms) == ["loss", "mse", "vgg", "chamfer", "edge", "normal", "laplacian"]
    weights = {"mse": 0.5, "vgg": 0.6, "chamfer": 15, "edge": 1, "normal": 0.01, "laplacian": 0.1}
    total = sum(weights[name] * float(term.detach()) for name, term in terms.items() if name != "loss")
    assert terms["loss"].item() == pytest.approx(total, rel=1e-6)
    assert all(float(term) > 0 for term in terms.values())


def test_what_the_mask_hides_does_not_count():
    task = _task(vgg=True)
    loss, scene = task.loss, task.scene
    _, image, foreground = task.tensors(np.arange(2))
    verts, rendered = scene.verts.expand(2, -1, -1), torch.rand(2, PX, PX, 3)
    elsewhere = torch.where(foreground[..., None], image, torch.rand(image.shape))
    masked, other = (loss(rendered, verts, picture, foreground) for picture in (image, elsewhere))
    assert {k: float(v) for k, v in masked.items()} == {k: float(v) for k, v in other.items()}
    open_loss = PaperLoss(
        scene, LossWeights(mse=1, vgg=0, chamfer=0, edge=0, normal=0, laplacian=0, masked=False), None
    )
    assert (
        open_loss(rendered, verts, image, foreground)["mse"]
        != open_loss(rendered, verts, elsewhere, foreground)["mse"]
    )
    assert list(open_loss(rendered, verts, image, foreground)) == ["loss", "mse"]


def test_the_template_undeformed_has_no_chamfer_loss_and_no_flying_edges():
    task = _task()
    verts = task.scene.verts[None].clone()
    terms = task.loss(torch.zeros(1, PX, PX, 3), verts, torch.zeros(1, PX, PX, 3), torch.ones(1, PX, PX).bool())
    assert float(terms["chamfer"]) == 0 and float(terms["mse"]) == 0
    topology = Topology(task.scene.faces, verts.shape[1])
    assert float(flying_edges(verts, topology)) == 0
    neighbours = int(topology.degree[100])
    verts[0, 100] += 5
    assert float(flying_edges(verts, topology)) == pytest.approx(neighbours / len(topology.edges))


def test_psnr_and_iou_look_at_the_mask():
    image = torch.rand(1, 8, 8, 3) * 0.5
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    rendered = image + 0.1 * mask[..., None] + 0.4 * ~mask[..., None]
    assert float(masked_psnr(rendered, image, mask)) == pytest.approx(20, abs=1e-3)
    alpha = torch.zeros(1, 8, 8)
    alpha[:, 2:6] = 0.9
    assert float(silhouette_iou(alpha, mask)) == pytest.approx(2 / 6)


def test_the_network_sees_the_picture_and_the_map_in_fassegs_colours():
    faces = render_faces(2, PX)
    x = network_input(faces.images, faces.labels)
    assert x.shape == (2, 6, PX, PX)
    shown = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(shown[..., :3], faces.images)
    assert np.array_equal(shown[..., 3:], FASSEG_COLOURS[faces.labels])


def _gradient_of_one_face(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4)
    torch.set_num_threads(1)
    task = _task(vgg=True, count=4)
    state = _state(task)
    state.model = torch.nn.parallel.DistributedDataParallel(state.model)
    task.losses(state.model, np.array([rank]), 0.0)["loss"].backward()
    if rank == 0:
        torch.save([p.grad for p in state.network.parameters()], f"{folder}/gradient.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_four_workers_one_worker_and_accumulation_give_one_gradient(tmp_path):
    task = _task(vgg=True, count=4)
    together = _state(task)
    train_step(together, task.losses, [np.arange(4)], 0.0, 0.0)
    expected = [p.grad.clone() for p in together.network.parameters()]
    accumulated = _state(task)
    train_step(accumulated, task.losses, [np.array([i]) for i in range(4)], 0.0, 0.0)
    multiprocessing.spawn(_gradient_of_one_face, (str(tmp_path),), nprocs=4)
    spread = torch.load(tmp_path / "gradient.pt")
    expected, one = (torch.cat([g.flatten() for g in grads]) for grads in (expected, spread))
    two = torch.cat([p.grad.flatten() for p in accumulated.network.parameters()])
    for gradient in (one, two):
        assert float((gradient - expected).norm()) < 1e-5 * float(expected.norm())
        # Single numbers are sums of thousands in another order, and in single precision: processors differ in them.
        assert float((gradient - expected).abs().max()) < 5e-5 * float(expected.abs().max())


def test_a_run_is_reproducible_and_is_the_golden_one():
    """A change of the curve must be meant: `python tests/test_meshnet_training.py` writes it anew."""
    rows = [_train(task := _task(), _state(task), 2) for _ in range(2)]
    for first, second in zip(*rows, strict=True):
        assert first == pytest.approx(second, rel=1e-6)
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == len(rows[0])
    for ours, expected in zip(rows[0], golden, strict=True):
        assert ours == pytest.approx(expected, rel=1e-3)


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    task = _task()
    whole = _state(task)
    rows = _train(task, whole, 4)
    stopped = _state(task)
    first = _train(task, stopped, 2)
    stopped.history.append({"epoch": 2.0})
    save_checkpoint(stopped, tmp_path / "state.pt")
    resumed = _state(task, seed=9)
    load_checkpoint(resumed, tmp_path / "state.pt")
    assert resumed.history == [{"epoch": 2.0}]
    both = first + _train(task, resumed, 4)
    assert [row["loss"] for row in both] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert resumed.step == whole.step


def test_training_makes_the_pictures_alike():
    task = _task()
    state = _state(task)
    before, count = task.validate(state.network)
    assert count == 3
    _train(task, state, 8)
    after, _ = task.validate(state.network)
    assert after["val_psnr_db"] > before["val_psnr_db"] + 2
    assert after["val_loss"] < before["val_loss"]
    assert task.strip(state.network).shape == (PX, 8 * PX, 3)


def test_babymeshnet_closes_in_on_its_target():
    loss = TermWeights(mse=1, vgg=0, chamfer=0, edge=0, normal=0, laplacian=0)
    paper = BabySettings(template="sphere", target="teapot", loss=loss, distance=2.7, fov_deg=60.0)
    task = BabyTask(TrainBabyMeshnetConfig(image_px=PX, paper=paper), Worker())
    torch.manual_seed(0)
    state = _fresh(task)
    before, _ = task.validate(state.network)
    for _ in range(80):
        train_step(state, task.losses, [np.zeros(1, int)], 3e-3, 0.0)
    after, _ = task.validate(state.network)
    assert after["val_mse"] < 0.1 * before["val_mse"]
    assert after["val_iou"] > 0.75 > 2 * before["val_iou"]


def test_a_saved_network_comes_back_with_its_scene(tmp_path):
    template = load_template("hemisphere")
    settings = PaperSettings(distance=3.0, fov_deg=50.0, ambient=0.4, composite="softmax")
    network = MeshNet(len(template.verts), PX).eval()
    save_meshnet(TrainedMeshnet(network, template, settings), tmp_path / "net.safetensors")
    loaded = load_meshnet(tmp_path / "net.safetensors")
    assert loaded.settings == replace(settings, loss=LossWeights())
    assert torch.equal(loaded.template.verts, template.verts) and torch.equal(loaded.template.faces, template.faces)
    x = torch.rand(1, 6, PX, PX)
    for ours, theirs in zip(loaded.network(x), network(x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    (tmp_path / "other").write_bytes(b"no weights")
    for name in ("other", "nowhere"):
        with pytest.raises(ConfigError, match=name):
            load_meshnet(tmp_path / name)


def test_a_batch_renders_as_its_meshes_do_alone():
    template = load_template("hemisphere")
    scene = TemplateScene(template, PaperSettings(), 32)
    verts = template.verts + 0.05 * torch.randn(3, 2113, 3)
    colors = torch.rand(3, 2113, 3)
    together = scene.render(verts, colors).image
    for i in range(3):
        torch.testing.assert_close(together[i], scene.render(verts[i : i + 1], colors[i : i + 1]).image[0])
    # The hemisphere faces the camera and fills 0.96 of the picture's width.
    across = (scene.render(template.verts[None], torch.ones(1, 2113, 3)).alpha[0, 16] > 0.5).sum()
    assert 30 <= int(across) <= 32


def test_rendered_faces_are_functions_of_their_seeds():
    some = render_faces(3, PX)
    assert np.array_equal(render_faces(1, PX, first_seed=2).images[0], some.images[2])
    assert not np.array_equal(some.images[0], some.images[1])
    counts = np.bincount(some.labels.ravel(), minlength=6)
    assert counts[Label.BACKGROUND] > counts[Label.SKIN] > counts[Label.NOSE] > counts[Label.EYES] > 0
    assert isinstance(some, FaceSet)


@pytest.mark.parametrize(
    "name",
    sorted(p.name for p in (ROOT / "configs").iterdir() if p.name.startswith(("meshnet_paper", "babymeshnet"))),
)
def test_the_shipped_configurations_are_valid(name):
    config = parse(TRAIN_MESHNET, "", ["--config", str(ROOT / "configs" / name)])
    assert config.images_per_worker == 1  # the paper's
    assert isinstance(config, TrainBabyMeshnetConfig) or config.data.rendered == 0
    if name == "meshnet_paper.yaml":
        assert config.paper.loss == LossWeights()
        assert (config.image_px, config.epochs) == (64, 12)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(_train(task := _task(), _state(task), 2), indent=1) + "\n")
