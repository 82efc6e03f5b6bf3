"""Faces of the prior with cameras, as truth, as a method's answer and as files, for the tests of the evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from raylib.evaluation.faces import Prediction, TruePhoto
from raylib.evaluation.results import model_landmarks
from raylib.evaluation.scans import LANDMARK_NAMES
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.morphable.model import load_prior

FACES = load_prior().faces.numpy()


def some_faces(n: int, seed: int = 0) -> np.ndarray:
    """Vertices of random faces of the prior, millimetres."""
    prior = load_prior()
    g = torch.Generator().manual_seed(seed)
    return prior.verts(torch.randn(n, prior.identity.shape[0], generator=g)).double().numpy()


def some_camera(yaw: float = 20.0, pitch: float = -5.0, roll: float = 4.0) -> Camera:
    R = rotation_from_euler_deg(torch.tensor([[yaw, pitch, roll]], dtype=torch.float64))
    T, focal = torch.tensor([[5.0, -20.0, 700.0]]).double(), torch.tensor([700.0]).double()
    return Camera(R, T, focal, torch.tensor([[128.0, 120.0]]).double())


def some_photo(verts: np.ndarray, camera: Camera) -> TruePhoto:
    marks = model_landmarks(load_prior(), verts)
    px = camera.project(torch.from_numpy(marks)[None])[0].numpy()
    return TruePhoto(np.zeros((256, 256, 3), np.uint8), camera, px, np.arange(68) > 10)


def as_prediction(verts: np.ndarray, **more) -> Prediction:
    return Prediction(verts, FACES, model_landmarks(load_prior(), verts), in_prior_topology=True, **more)


def write_scan(folder: Path, name: str, verts: np.ndarray, faces: np.ndarray, marks: np.ndarray, extra: str = ""):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in verts] + [f"f {a} {b} {c}" for a, b, c in faces + 1]
    (folder / f"{name}.obj").write_text("\n".join(lines))
    text = [f"{n} {marks[i, 0]:.9f} {marks[i, 1]:.9f} {marks[i, 2]:.9f}" for n, i in LANDMARK_NAMES.items()]
    (folder / f"{name}.landmarks").write_text("\n".join([extra, *text]))
