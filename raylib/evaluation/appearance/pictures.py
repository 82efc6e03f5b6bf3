"""The contact sheet of the appearance report: what was compared, for the faces with the worst albedo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.evaluation.appearance.errors import AppearanceErrors, sphere_shading
from raylib.evaluation.drawing import to_bytes, to_srgb
from raylib.evaluation.faces import Prediction, TrueFace
from raylib.evaluation.shape.pictures import PANEL_PX, labelled
from raylib.geometry.camera import Camera
from raylib.lighting.spherical_harmonics import lambert_transfer

PANELS = (
    *("photograph", "reprojection", "true albedo", "albedo", "true light", "light"),
    *("true, unseen light", "unseen light"),
)
"""The columns: up to factors what should be alike stands side by side."""

_BACKGROUND = 0.94
_BEHIND_SPHERES = 0.55


class AppearanceSheet:
    """Rows of pictures of the faces with the largest albedo error of each method.

    Args:
        count: rows of each method.
    """

    def __init__(self, count: int):
        self._count = count
        self._rows: dict[str, list[tuple[float, str, UInt8[np.ndarray, "p w 3"]]]] = {}

    def add(self, method: str, face: TrueFace, prediction: Prediction, errors: AppearanceErrors) -> None:
        """Takes a face in and lets go of the one that is no longer among the worst."""
        error = errors.figures["albedo"]
        rows = self._rows.setdefault(method, [])
        if not errors.pictures or not np.isfinite(error) or (len(rows) == self._count and rows[-1][0] >= error):
            return
        tone, ratio = errors.tone, errors.figures["psnr"]
        text = f"{method}: {face.name}, {tone} skin, albedo {100 * error:.0f} % off, reprojection {ratio:.1f} dB"
        rows.append((error, text, _row(face, prediction, errors)))
        rows.sort(key=lambda row: -row[0])
        del rows[self._count :]

    def picture(self) -> Image.Image | None:
        """Returns the sheet, or None where it is empty."""
        rows = [labelled(row, text) for rows in self._rows.values() for _, text, row in rows]
        if not rows:
            return None
        head = np.concatenate([labelled(np.full((1, PANEL_PX, 3), 255, np.uint8), name) for name in PANELS], axis=1)
        return Image.fromarray(np.concatenate([head, *rows]))


def sphere_picture(
    camera: Camera, shade: Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]]
) -> Float[np.ndarray, "p p 3"]:
    """Returns a white matte sphere as a camera far away sees it, its brightest channel near white, sRGB.

    Args:
        camera: a batch of one; turns the light's space towards the picture.
        shade: what the sphere reflects at unit normals in the light's space.
    """
    at = (np.arange(PANEL_PX) + 0.5) / PANEL_PX * 2.3 - 1.15
    x, y = np.meshgrid(at, at)
    inside = x**2 + y**2 < 1
    normals = np.stack([x, y, -np.sqrt(np.maximum(1 - x**2 - y**2, 0))], axis=-1)[inside]
    linear = shade(normals @ camera.R[0].double().numpy())
    image = np.full((PANEL_PX, PANEL_PX, 3), _BEHIND_SPHERES)
    image[inside] = to_srgb(0.9 * linear / max(float(linear.max()), 1e-9))
    return image


def _row(face: TrueFace, prediction: Prediction, errors: AppearanceErrors) -> UInt8[np.ndarray, "p w 3"]:
    assert face.photo is not None and face.photo.camera is not None and face.appearance is not None
    appearance = face.appearance
    true = sphere_picture(face.photo.camera, lambda normals: sphere_shading(appearance, normals))
    light = prediction.light_sh
    mine = np.full((PANEL_PX, PANEL_PX, 3), _BACKGROUND)
    if light is not None and prediction.camera is not None:
        shade = lambert_transfer
        mine = sphere_picture(
            prediction.camera, lambda normals: np.maximum(shade(torch.from_numpy(normals)).numpy() @ light, 0)
        )
    panels = []
    for name in PANELS:
        if name in ("true light", "light"):
            panels.append(to_bytes(true if name == "true light" else mine))
            continue
        drawing = errors.pictures.get(name)
        if drawing is None:  # nothing of the reconstruction is in the picture
            panels.append(np.full((PANEL_PX, PANEL_PX, 3), round(255 * _BACKGROUND), np.uint8))
            continue
        image = drawing.image
        if name != "reprojection":
            image = np.where(drawing.mask[..., None], image, _BACKGROUND)
        panel = Image.fromarray(to_bytes(image))
        panels.append(np.asarray(panel.resize((PANEL_PX, PANEL_PX), Image.Resampling.BILINEAR)))
    return np.concatenate(panels, axis=1)
