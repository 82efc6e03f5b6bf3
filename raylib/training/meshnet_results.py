"""What a training of a mesh network leaves in its folder: weights, curves, pictures, meshes."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import ray.train
import torch
import trimesh
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from raylib.config import TrainMeshnetConfig
from raylib.deformation import TrainedMeshnet, save_meshnet
from raylib.networks.meshnet import MeshNetPaper
from raylib.provenance import environment
from raylib.training.curves import draw_curves
from raylib.training.meshnet_loop import MeshTrainState, Task, load_checkpoint, new_state
from raylib.training.paper_tasks import BabyTask, FaceTask, as_bytes
from raylib.training.ray_run import from_storage
from raylib.training.strips import row_of, stacked_strip

_MESHES = 4
"""Faces whose meshes are written."""

_TERMS = ("mse", "vgg", "chamfer", "edge", "normal", "laplacian")


def write_results(config: TrainMeshnetConfig, task: Task, result: ray.train.Result) -> None:
    """Writes the results of a finished run.

    Args:
        config: of the run, with absolute paths.
        task: what was trained, on the CPU.
        result: of the trainer.
    """
    out = Path(config.out)
    state = new_state(task.new_network())
    from_storage(result.checkpoint, partial(load_checkpoint, state))
    history = state.history
    best = result.get_best_checkpoint("val_loss", "min")
    from_storage(best, partial(load_checkpoint, state))
    (out / "history.json").write_text(json.dumps(history, indent=1))
    record = {"job": "train_meshnet", "config": asdict(config), "best": state.history[-1]}
    (out / "run.json").write_text(json.dumps(record | environment(("torch", "ray")), indent=1))
    (out / "curves.svg").write_text(curves(history))
    state.network.eval()
    if isinstance(task, BabyTask):
        _write_teapot(task, state, out)
    elif isinstance(task, FaceTask):
        _write_faces(config, task, state, out)


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


def write_mesh(
    path: Path, verts: Float[Tensor, "v 3"], faces: Tensor, colors: Float[Tensor, "v 3"] | None = None
) -> None:
    """Writes a mesh with vertex colours as OBJ and GLB beside each other, in the template's own unit.

    Args:
        path: without an ending.
        verts: vertices.
        faces: triangles.
        colors: of the vertices, 0..1, or None.
    """
    painted = None if colors is None else (colors.clamp(0, 1) * 255).byte().numpy()
    mesh = trimesh.Trimesh(verts.numpy(), faces.numpy(), vertex_colors=painted, process=False)
    for ending in (".obj", ".glb"):
        mesh.export(path.with_suffix(ending))


@torch.no_grad()
def _write_teapot(task: BabyTask, state: MeshTrainState, out: Path) -> None:
    """Writes the paper's figures 6 and 7 (the input; initial, intermediate and best mesh) and the best as files."""
    verts = task.deform(state.network)
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
def _write_faces(config: TrainMeshnetConfig, task: FaceTask, state: MeshTrainState, out: Path) -> None:
    """Writes the weights, the paper's figures 8 and 9 (original, rendered, higher contrast), the strip and meshes."""
    assert isinstance(state.network, MeshNetPaper)
    save_meshnet(TrainedMeshnet(state.network, task.template, config.paper), out / "meshnet.safetensors")
    verts, colors, seen, faces = task.deform(state.network, _MESHES)
    pictures = as_bytes(seen)
    rows = [np.concatenate(row, 1) for row in zip(faces.images, pictures, higher_contrast(pictures), strict=True)]
    figure = Image.fromarray(np.concatenate(rows))
    w = config.paper.loss
    number = 9 if w.vgg + w.chamfer + w.edge + w.normal + w.laplacian > 0 else 8  # the paper's figure of MSE alone
    figure = figure.resize((figure.width * 2, figure.height * 2), Image.Resampling.NEAREST)
    figure.save(out / f"figure_{number}_faces.png")
    stacked_strip(out).save(out / "strip.png")
    for index in range(len(verts)):
        write_mesh(out / f"face_{index}", verts[index], task.scene.faces, colors[index])
