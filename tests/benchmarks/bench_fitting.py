"""Landmark fitting against eos on synthetic faces with known truth: accuracy and time.

    python tests/benchmarks/bench_fitting.py --data DIR [--model prior] [--jaw fixed] [--output OUT.json]

DIR holds `ict/ict_facekit.npz` and `sfm/`. ICT-FaceKit faces with random identities are projected with known poses
(yaw to 45, pitch to 15, roll to 10 degrees), 1 px of noise is added at 256 px, and both programs fit the same model
to the same landmarks, alternately in one process on one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylib.config import FitSettings
from raylib.evaluation.baselines import EosBaseline, LandmarkSource
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import FRONTAL, Camera, rotation_from_euler_deg
from raylib.geometry.closest import MeshSurface
from raylib.geometry.landmarks68 import NOSE_TIP
from raylib.metrics.scan_error import scan_error
from raylib.morphable.model import LinearFaceModel
from raylib.morphable.readers import load_model

ICT_FACE_VERTS = 9409
IMAGE_PX = 256
FOV_DEG = 20.0


@dataclass(frozen=True)
class Truth:
    """Synthetic faces, their poses and noisy landmarks."""

    verts: torch.Tensor
    landmark_verts: np.ndarray
    faces: np.ndarray
    seen: np.ndarray
    camera: Camera
    landmarks_px: torch.Tensor


def synthetic_truth(ict: LinearFaceModel, n: int, noise_px: float, jaw: str, seed: int) -> Truth:
    """Returns n random ICT faces seen at random poses.

    Args:
        ict: ICT-FaceKit.
        n: number of faces.
        noise_px: standard deviation of the landmark noise.
        jaw: "fixed" projects ICT-FaceKit's own jaw vertices even where they are hidden; "outline" takes the visible
            outline of the level section through each, as a detector would.
        seed: of identities, poses and noise.
    """
    g = torch.Generator().manual_seed(seed)
    verts = ict.verts(torch.randn(n, ict.identity.shape[0], generator=g))
    angles = (2 * torch.rand(n, 3, generator=g) - 1) * torch.tensor([45.0, 15.0, 10.0])
    focal = IMAGE_PX / 2 / np.tan(np.deg2rad(FOV_DEG / 2))
    T = torch.tensor([0.0, -20.0, focal]).repeat(n, 1)  # one pixel a millimetre at the face
    camera = Camera(
        rotation_from_euler_deg(angles), T, torch.full((n,), focal), torch.full((n, 2), IMAGE_PX / 2, dtype=T.dtype)
    )
    landmark_verts = ict.landmark_verts
    px = camera.project(verts[:, landmark_verts])
    if jaw == "outline":
        for i in (*range(8), *range(9, 17)):
            start, side = ict.mean[landmark_verts[i]], -1.0 if i < 8 else 1.0
            level = (ict.mean[:ICT_FACE_VERTS, 1] - start[1]).abs() < 3.0
            level &= (ict.mean[:ICT_FACE_VERTS, 2] >= start[2]) & (side * ict.mean[:ICT_FACE_VERTS, 0] > 0)
            section = camera.project(verts[:, level.nonzero()[:, 0]])
            across = camera.R[:, :2, 1].flip(1) * torch.tensor([-side, side])
            px[:, i] = section[torch.arange(n), (section * across[:, None]).sum(2).argmax(1)]
    px = px + noise_px * torch.randn(px.shape, generator=g)
    faces = ict.faces.numpy()
    faces = faces[(faces < ICT_FACE_VERTS).all(1)]
    seen = visible_verts(ict.mean[:ICT_FACE_VERTS].numpy(), faces)
    return Truth(verts[:, :ICT_FACE_VERTS], landmark_verts.numpy(), faces, seen, camera, px)


def visible_verts(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns the vertices that a scanner would see from in front, 50 degrees to the sides, above or below.

    ICT-FaceKit's face goes on into the mouth, the nostrils and behind the eyeballs, where no scan has points.
    """
    w = np.array([(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)]) / 4
    samples = np.einsum("sk,fkd->fsd", w, verts[faces]).reshape(-1, 3)
    seen = np.zeros(len(verts), dtype=bool)
    for yaw, pitch in ((0, 0), (50, 0), (-50, 0), (0, 40), (0, -40)):
        R = rotation_from_euler_deg(torch.tensor([[float(yaw), float(pitch), 0.0]]))[0].numpy()
        p, q = samples @ R.T, verts @ R.T
        nearest = np.full((200, 200), np.inf)
        np.minimum.at(nearest, tuple((p[:, :2] / 2 + 100).astype(int).clip(0, 199).T), p[:, 2])
        seen |= q[:, 2] < nearest[tuple((q[:, :2] / 2 + 100).astype(int).clip(0, 199).T)] + 4.0
    return np.flatnonzero(seen)


def rotation_angle_deg(R: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))))


def errors(verts: np.ndarray, model: LinearFaceModel, truth: Truth, i: int) -> dict[str, float]:
    """Returns distances both ways between a fitted mesh and the truth, millimetres."""
    true = truth.verts[i].numpy()
    marks = true[truth.landmark_verts]
    fitted_marks = verts[model.landmark_verts.clamp(min=0).numpy()]
    to_mesh = scan_error(verts, model.faces.numpy(), fitted_marks, true[truth.seen], marks)
    moved = to_mesh.alignment.apply(verts)
    moved = moved[np.linalg.norm(moved - marks[NOSE_TIP], axis=1) <= 95]
    back = MeshSurface(true, truth.faces).distance(moved)
    return {
        "scan_to_mesh_median": to_mesh.median,
        "scan_to_mesh_mean": to_mesh.mean,
        "vertex_mean": float(back.mean()),
        "scale_error": abs(to_mesh.alignment.scale - 1),
    }


def measure(data: Path, model_spec: str, n: int, noise_px: float, jaw: str, seed: int) -> dict[str, Any]:
    """Returns mean errors and times of the fit, of eos where the model is the SFM, and of the mean face."""
    ict = load_model(str(data / "ict/ict_facekit.npz"))
    model = load_model(model_spec)
    truth = synthetic_truth(ict, n, noise_px, jaw, seed)
    fitter = LandmarkFitter(model, FitSettings())
    px, focal, principal = truth.landmarks_px, truth.camera.focal_px, truth.camera.principal_px
    eos = EosBaseline(Path(model_spec), LandmarkSource("true")) if model.name == "sfm" else None
    seconds: dict[str, list[float]] = {"eos": [], "single": [], "batch": []}
    rows: dict[str, list[dict[str, float]]] = {"eos": [], "raylib": [], "mean face": []}
    fitter.fit(px[:1], focal[:1], principal[:1])
    fitted = fitter.fit(px, focal, principal)
    for i in range(n):
        if eos:
            t = time.perf_counter()
            verts, rendering = eos.fit(px[i].numpy(), IMAGE_PX, IMAGE_PX)
            seconds["eos"].append(time.perf_counter() - t)
            pose = np.array(FRONTAL) @ np.array(rendering.get_modelview())[:3, :3] @ eos.to_canonical[1].T
            rows["eos"].append(
                errors(verts, model, truth, i) | {"pose_deg": rotation_angle_deg(pose.T @ truth.camera.R[i].numpy())}
            )
        t = time.perf_counter()
        fitter.fit(px[i : i + 1], focal[i : i + 1], principal[i : i + 1])
        seconds["single"].append(time.perf_counter() - t)
        t = time.perf_counter()
        if i % 8 == 0:
            fitter.fit(px, focal, principal)
            seconds["batch"].append((time.perf_counter() - t) / n)
        pose_error = rotation_angle_deg(fitted.camera.R[i].numpy().T @ truth.camera.R[i].numpy())
        rows["raylib"].append(errors(fitted.verts_mm[i].numpy(), model, truth, i) | {"pose_deg": pose_error})
        rows["mean face"].append(errors(model.mean.numpy(), model, truth, i))
    return {
        "model": model.name,
        "jaw": jaw,
        "faces": n,
        "noise_px": noise_px,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "errors": {
            name: {key: statistics.fmean(row[key] for row in rs) for key in rs[0]} for name, rs in rows.items() if rs
        },
        "milliseconds_a_face": {k: 1e3 * statistics.median(v) for k, v in seconds.items() if v},
    }


def markdown(result: dict[str, Any]) -> str:
    """Returns the result as a Markdown table."""
    keys = ["scan_to_mesh_median", "scan_to_mesh_mean", "vertex_mean", "scale_error", "pose_deg"]
    lines = [
        f"Model {result['model']}, jaw {result['jaw']}, {result['faces']} faces, noise {result['noise_px']} px",
        "",
        "| | scan-to-mesh median, mm | mean, mm | fitted vertices to truth, mean, mm | scale error | pose, deg |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["errors"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[k]:.3f}" if k in row else "-" for k in keys) + " |")
    times = result["milliseconds_a_face"]
    lines += ["", "Milliseconds a face: " + ", ".join(f"{k} {v:.2f}" for k, v in times.items())]
    if "eos" in times:
        lines[-1] += (
            f"; eos / single {times['eos'] / times['single']:.1f}, / batch {times['eos'] / times['batch']:.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="'prior' or a model file; the SFM of the data folder by default")
    parser.add_argument("--faces", type=int, default=60)
    parser.add_argument("--noise-px", type=float, default=1.0)
    parser.add_argument("--jaw", choices=["fixed", "outline"], default="outline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = args.model or str(args.data / "sfm/sfm_shape_3448.bin")
    result = measure(args.data, model, args.faces, args.noise_px, args.jaw, args.seed)
    print(markdown(result))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
