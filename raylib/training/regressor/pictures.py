"""Pictures for the training of the network that corrects landmark fits: synthetic faces and photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from raylib.errors import RaylibError
from raylib.io.images import decode
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.spherical_harmonics import sh_basis
from raylib.regressor.corrections import CropEstimate
from raylib.synthesis import SyntheticFaces
from raylib.training.regressor.loss import FaceLoss
from raylib.training.regressor.samples import LabelledFace
from raylib.training.strips import row_of

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


def synthetic_pictures(faces: SyntheticFaces) -> list[LabelledFace]:
    """Returns synthetic faces as pictures with their truth."""
    pictures = []
    for i in range(len(faces)):
        effects = faces.effects[i]
        red, blue = np.asarray(effects["balance"], dtype=float)
        gain = float(np.asarray(effects["exposure"])) * np.array([red, 1.0, blue])
        light = whole_light(faces.light_sh[i], faces.lamp_direction[i], faces.lamp_color[i], gain)
        camera = faces.camera.select(slice(i, i + 1))
        pictures.append(
            LabelledFace(faces.image[i], faces.landmarks[i], camera, faces.verts_mm[i], faces.albedo[i], light)
        )
    return pictures


@torch.inference_mode()
def drawn_faces(loss: FaceLoss, faces: CropEstimate) -> UInt8[np.ndarray, "h w 3"]:
    """Returns faces as they are estimated in their crops, in a row, and their bare shapes below them.

    Args:
        loss: holds the renderer.
        faces: to draw.
    """
    lamp = torch.zeros(9, 3)
    lamp[0], lamp[2] = 1.2, 1.2  # from all sides, and more from the front
    bare = replace(
        faces,
        albedo=torch.full_like(faces.albedo, 0.7),
        light_sh=lamp.to(faces.albedo).expand(len(faces.albedo), 9, 3),
    )
    pictures = [linear_to_srgb(loss.picture(one).image.clamp(0, 1)) for one in (faces, bare)]
    rows = [(picture * 255).round().to(torch.uint8).cpu().numpy() for picture in pictures]
    return np.concatenate([row_of(row) for row in rows])


def photographs(paths: Sequence[Path], batch_size: int = 16) -> Iterator[tuple[list[LabelledFace], list[int]]]:
    """Yields photographs and their place in `paths`, some at a time; files that are no pictures are passed over."""
    for start in range(0, len(paths), batch_size):
        pictures, numbers = [], []
        for number, path in enumerate(paths[start : start + batch_size], start):
            try:
                pictures.append(LabelledFace(decode(path.read_bytes(), _MAX_PIXELS).rgb))
            except RaylibError:
                continue
            numbers.append(number)
        yield pictures, numbers
