"""What a training of a mesh network leaves in its folder: weights, curves, pictures, meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from raylib.config import TrainBabyMeshnetConfig, TrainPaperConfig
from raylib.io.meshes import write_mesh
from raylib.metrics.curves import draw_curves
from raylib.paper.babymeshnet import BabyMeshNet
from raylib.paper.meshnet import MeshNet
from raylib.paper.scene import TrainedMeshnet, save_meshnet
from raylib.training.paper.tasks import BabyTask, FaceTask, PaperTask, as_bytes
from raylib.training.ray_run import Trained
from raylib.training.strips import row_of, stacked_strip

_MESHES = 4
"""Faces whose meshes are written."""

_TERMS = ("mse", "vgg", "chamfer", "edge", "normal", "laplacian")


def write_results(config: TrainPaperConfig | TrainBabyMeshnetConfig, trained: Trained[PaperTask]) -> None:
    """Writes the results of a finished run.

    Args:
        config: of the run, with absolute paths.
        trained: what came of it.
    """
    out, task = Path(config.out), trained.task
    trained.write_record(config, "train_meshnet")
    (out / "curves.svg").write_text(curves(trained.history))
    network = trained.state.average.eval()
    if isinstance(task, BabyTask):
        _write_teapot(task, network, out)
    elif isinstance(task, FaceTask):
        _write_faces(task, network, out)


def curves(history: list[dict[str, float]]) -> str:
    """Returns the curves of a run as an SVG document: the loss, each of its terms, and the validation's figures."""
    columns = {key: [row[key] for row in history] for key in history[0]}
    panels = {"loss": {"training": columns["loss"], "validation": columns["val_loss"]}}
    for name in _TERMS:
        if name in columns:
            panels[name] = {"training": columns[name], "validation": columns[f"val_{name}"]}
    titles = {
        "val_psnr_db": "masked PSNR, dB",
        "val_vgg_distance": "distance in VGG19's features",
        "val_flying_edges": "share of edges over 4 times the median",
        "val_iou": "IoU of silhouettes",
        "images_per_second": "images a second",
    }
    panels |= {title: {"": columns[key]} for key, title in titles.items() if key in columns}
    return draw_curves(columns["epoch"], panels)


def higher_contrast(pictures: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns each picture with its values between the 2nd and the 98th percentile spread over the whole range."""
    out = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        lit = picture[picture.max(2) > 8]
        low, high = np.percentile(lit, [2, 98]) if lit.size else (0, 255)
        out[index] = np.clip((picture - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8)
    return out


@torch.no_grad()
def _write_teapot(task: BabyTask, network: BabyMeshNet, out: Path) -> None:
    """Writes the paper's figures 6 and 7 (the input; initial, intermediate and best mesh) and the best as files."""
    verts = task.deform(network)
    best = as_bytes(task.render(verts).image)
    Image.fromarray(as_bytes(task.image)[0]).save(out / "figure_6_input.png")
    strips = sorted((out / "strip").glob("epoch_*.png"))
    side = best.shape[2]
    early = min(max(1, len(strips) // 8), len(strips) - 1)
    first, middle = (np.asarray(Image.open(strips[i]))[:, side:] for i in (0, early))
    Image.fromarray(row_of(np.stack([first, middle, best[0]]))).save(out / "figure_7_teapot.png")
    stacked_strip(out).save(out / "strip.png")
    write_mesh(out / "teapot", verts[0], task.scene.faces)


@torch.no_grad()
def _write_faces(task: FaceTask, network: MeshNet, out: Path) -> None:
    """Writes the weights, the paper's figures 8 and 9 (original, rendered, higher contrast), the strip and meshes."""
    paper = task.config.paper
    save_meshnet(TrainedMeshnet(network, task.template, paper), out / "meshnet.safetensors")
    verts, colors, seen, faces = task.deform(network, _MESHES)
    pictures = as_bytes(seen)
    rows = [np.concatenate(row, 1) for row in zip(faces.images, pictures, higher_contrast(pictures), strict=True)]
    figure = Image.fromarray(np.concatenate(rows))
    w = paper.loss
    number = 9 if w.vgg + w.chamfer + w.edge + w.normal + w.laplacian > 0 else 8  # the paper's figure of MSE alone
    figure = figure.resize((figure.width * 2, figure.height * 2), Image.Resampling.NEAREST)
    figure.save(out / f"figure_{number}_faces.png")
    stacked_strip(out).save(out / "strip.png")
    for index in range(len(verts)):
        write_mesh(out / f"face_{index}", verts[index], task.scene.faces, colors[index])
