"""Times a training step of MeshNet with our renderer against the same step on stock PyTorch3D, on one CPU thread.

Both sides have the same network, pictures, optimiser and VGG19; renderer, chamfer distance and regularisers differ.
They run in turn in one process and are timed by processor time, so that other work on the machine does not count.
The values of VGG19's weights do not matter to its time: random ones stand in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from pytorch3d.loss import chamfer_distance, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from pytorch3d.renderer import (
    BlendParams,
    FoVPerspectiveCameras,
    MeshRasterizer,
    MeshRenderer,
    PointLights,
    RasterizationSettings,
    SoftPhongShader,
    TexturesVertex,
)
from pytorch3d.structures import Meshes
from torch import Tensor

from raylib.benchmark.record import outputs, write_record
from raylib.config import BenchmarkTrainConfig, LossWeights, PaperSettings, TrainPaperConfig
from raylib.datasets.rendered_faces import render_faces
from raylib.paper.vgg import VggFeatures, random_vgg
from raylib.training.loop import TrainState, Worker, new_state, train_step
from raylib.training.paper.loss import PaperLoss, picture_distance
from raylib.training.paper.task import adam
from raylib.training.paper.tasks import FaceTask
from raylib.training.precision import resolve_precision

_SIGMA = _GAMMA = 1e-4  # PyTorch3D's usual softness, in its units
_BLUR = math.log(1 / 1e-4 - 1) * _SIGMA
_LEARNING_RATE = 1e-5


class StockStep:
    """The paper's step as PyTorch3D's documentation writes it."""

    def __init__(self, task: FaceTask, config: BenchmarkTrainConfig, weights: LossWeights, vgg: VggFeatures):
        self.task, self.weights, self.vgg = task, weights, vgg
        paper = task.config.paper
        self.verts, self.faces = task.scene.verts, task.scene.faces
        # PyTorch3D looks along +z of a space with x to the left and y up: turn the template's z around.
        R = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))[None]
        cameras = FoVPerspectiveCameras(R=R, T=torch.tensor([[0.0, 0.0, paper.distance]]), fov=paper.fov_deg)
        ambient = ((paper.ambient,) * 3,)
        lights = PointLights(
            location=((0.0, 0.0, paper.distance),), ambient_color=ambient, diffuse_color=((1 - paper.ambient,) * 3,),
            specular_color=((0.0,) * 3,),
        )  # fmt: skip
        settings = RasterizationSettings(config.size, _BLUR, config.faces_per_pixel)
        blend = BlendParams(_SIGMA, _GAMMA, (0.0, 0.0, 0.0))
        shader = SoftPhongShader(cameras=cameras, lights=lights, blend_params=blend)
        self.render = MeshRenderer(MeshRasterizer(cameras, settings), shader)
        self.state = _fresh(task)

    def __call__(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """Does one optimiser step and returns the loss's terms."""
        x, image, foreground = self.task.tensors(chosen)
        offsets, colors = self.state.model(x)
        verts = self.verts + offsets
        meshes = Meshes(verts, self.faces.expand(len(verts), -1, -1), TexturesVertex(colors))
        mask = foreground[..., None]
        rendered, image = self.render(meshes)[..., :3] * mask, image * mask
        w = self.weights
        terms = {
            "mse": (rendered - image).square().mean(),
            "chamfer": chamfer_distance(verts, self.verts.expand(len(verts), -1, -1))[0],
            "edge": mesh_edge_loss(meshes),
            "normal": mesh_normal_consistency(meshes),
            "laplacian": mesh_laplacian_smoothing(meshes, "uniform"),
        }
        if w.vgg > 0:
            terms["vgg"] = picture_distance(self.vgg, rendered, image).mean()
        loss = torch.stack([getattr(w, name) * term for name, term in terms.items()]).sum()
        for group in self.state.optimizer.param_groups:
            group["lr"] = _LEARNING_RATE
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.state.optimizer.step()
        return terms


def _fresh(task: FaceTask) -> TrainState:
    network = task.new_network()
    return new_state(network, adam(network))


def _milliseconds(step: Callable[[], object]) -> float:
    before = time.process_time()
    step()
    return (time.process_time() - before) * 1e3


def both_sides(config: BenchmarkTrainConfig, images: int, weights: LossWeights) -> tuple[FaceTask, StockStep]:
    """Returns the task as we do it and the same step as PyTorch3D does it, with networks of the same weights."""
    vgg = random_vgg().to(resolve_precision("auto", torch.device("cpu")))
    sigma = _SIGMA * (config.size / 2) ** 2
    paper = PaperSettings(loss=replace(weights, vgg=0.0), composite="softmax", sigma_px2=sigma, first_sigma_px2=sigma)
    faces = render_faces(images, config.size)
    task = FaceTask(TrainPaperConfig(paper=paper, image_px=config.size), faces, faces, Worker())
    task.loss = PaperLoss(task.scene, weights, vgg)
    torch.manual_seed(0)
    return task, StockStep(task, config, weights, vgg)


def compare(config: BenchmarkTrainConfig, images: int, weights: LossWeights) -> dict[str, float]:
    """Returns the least milliseconds of a step on both sides and the ratio.

    Args:
        config: sizes and rounds.
        images: pictures of a step.
        weights: terms of the loss.
    """
    task, stock = both_sides(config, images, weights)
    chosen = np.arange(images)
    torch.manual_seed(0)
    state = _fresh(task)
    ours_ms = stock_ms = math.inf

    def ours() -> None:
        train_step(state, task.losses, [chosen], _LEARNING_RATE, 0.0)

    ours()  # compiles the kernels
    for _ in range(config.rounds):
        for _ in range(config.ours_per_round):
            ours_ms = min(ours_ms, _milliseconds(ours))
        stock_ms = min(stock_ms, _milliseconds(lambda: stock(chosen)))
    return {"images": images, "ours_ms": ours_ms, "pytorch3d_ms": stock_ms, "ratio": stock_ms / ours_ms}


def plan(config: BenchmarkTrainConfig) -> list[str]:
    """Returns what a run would do, in lines."""
    return [
        f"would time steps of {config.images} pictures of {config.size} pixels, with and without the VGG term, "
        f"{config.rounds} rounds",
        *outputs(config.output),
    ]


def run(config: BenchmarkTrainConfig) -> int:
    """Prints both steps' times with all six terms and without the VGG term, and writes them as JSON."""
    torch.set_num_threads(1)
    six = LossWeights()
    rows = []
    print("terms          images   ours ms  PyTorch3D  times")
    for images in config.images:
        for terms, weights in (("all six", six), ("without VGG", replace(six, vgg=0.0))):
            row = compare(config, images, weights)
            rows.append({"terms": terms} | row)
            print(
                f"{terms:14} {images:6} {row['ours_ms']:9.1f} {row['pytorch3d_ms']:10.0f} {row['ratio']:6.0f}",
                flush=True,
            )
    write_record(config.output, config, {"steps": rows})
    return 0
