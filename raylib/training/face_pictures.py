"""Pictures for the training of the network that corrects landmark fits: synthetic faces and photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from raylib.errors import RaylibError
from raylib.images import decode
from raylib.lighting import sh_basis
from raylib.synthesis import SyntheticFaces
from raylib.training.face_samples import Picture

_MAX_PIXELS = 40_000_000


def whole_light(
    light_sh: Float[np.ndarray, "9 3"],
    lamp_direction: Float[np.ndarray, " 3"],
    lamp_color: Float[np.ndarray, " 3"],
    gain: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "9 3"]:
    """Returns the harmonics of surroundings and lamp together, as the camera saw them.

    Args:
        light_sh: surroundings.
        lamp_direction: unit vector towards a lamp.
        lamp_color: what a white matte surface that faces it reflects.
        gain: of the camera's exposure and white balance.
    """
    # A lamp of radiance L from one direction gives the irradiance L cos; shading is irradiance over pi.
    towards = sh_basis(torch.from_numpy(np.asarray(lamp_direction, np.float32))).numpy()
    return np.asarray((light_sh + math.pi * towards[:, None] * lamp_color[None]) * gain, np.float32)


def synthetic_pictures(faces: SyntheticFaces) -> list[Picture]:
    """Returns synthetic faces as pictures with their truth."""
    pictures = []
    for i in range(len(faces)):
        effects = faces.effects[i]
        red, blue = np.asarray(effects["balance"], dtype=float)
        gain = float(np.asarray(effects["exposure"])) * np.array([red, 1.0, blue])
        light = whole_light(faces.light_sh[i], faces.lamp_direction[i], faces.lamp_color[i], gain)
        camera = faces.camera.select(slice(i, i + 1))
        pictures.append(
            Picture(faces.image[i], faces.landmarks[i], camera, faces.verts_mm[i], faces.albedo[i], light)
        )
    return pictures


def photographs(paths: Sequence[Path], batch_size: int = 16) -> Iterator[tuple[list[Picture], list[int]]]:
    """Yields photographs and their place in `paths`, some at a time; files that are no pictures are passed over."""
    for start in range(0, len(paths), batch_size):
        pictures, numbers = [], []
        for number, path in enumerate(paths[start : start + batch_size], start):
            try:
                pictures.append(Picture(decode(path.read_bytes(), _MAX_PIXELS).rgb))
            except RaylibError:
                continue
            numbers.append(number)
        yield pictures, numbers
