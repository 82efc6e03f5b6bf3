"""Draws what the renderer does: beside PyTorch3D with the difference, and a face under eight lights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raylib.benchmark.record import outputs
from raylib.config import BenchmarkPicturesConfig
from raylib.geometry.camera import Camera, focal_from_fov, rotation_from_euler_deg
from raylib.geometry.mesh import vertex_normals
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import lambert_transfer, self_shadow_transfer, sh_basis
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.render import SoftRenderer, SoftSettings

COMPARISON = "render_ours_and_pytorch3d.png"
"""The face by PyTorch3D, by ours, and the difference."""
EIGHT_LIGHTS = "render_eight_lights.png"
"""The face under eight lights, above without and below with self-shadow."""

DIFFERENCE_GAIN = 1e5
"""How much the difference is brightened."""
_DISTANCE_MM = 900.0
_FOV_DEG = 13.0
_SKIN = (0.82, 0.58, 0.47)
_LAMP = 1.9
_SKY = 0.2
_N_DIRECTIONS = 1024
_AZIMUTHS_DEG = (-80, -40, 40, 80)
_ELEVATIONS_DEG = (10, 65)


def _camera(size: int, yaw_deg: float, center: Tensor) -> Camera:
    """Before the face, aimed at `center`."""
    R = rotation_from_euler_deg(torch.tensor([[yaw_deg, 0.0, 0.0]]))
    T = torch.tensor([[0.0, 0.0, _DISTANCE_MM]]) - (R @ center[:, None])[..., 0]
    focal = focal_from_fov(_FOV_DEG, torch.tensor([float(size)]))
    return Camera(R, T, focal, torch.full((1, 2), size / 2))


def _lamp(azimuth_deg: float, elevation_deg: float) -> SphericalHarmonicLight:
    """A lamp and a faint sky, in face space."""
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    direction = torch.tensor(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
    )
    coefficients = _LAMP * math.pi * sh_basis(direction)
    coefficients[0] += _SKY * math.sqrt(4 * math.pi)
    return SphericalHarmonicLight(coefficients[None, :, None].expand(1, 9, 3) * 0.45)


def _to_bytes(linear: Tensor) -> np.ndarray:
    """Linear light as sRGB bytes (the power 1 / 2.2 is close enough for a picture)."""
    return (linear.clamp(0, 1) ** (1 / 2.2) * 255).round().byte().numpy()


def compare(model: LinearFaceModel, size: int) -> tuple[np.ndarray, float]:
    """Returns the picture (PyTorch3D, ours, brightened difference) and the largest difference of a colour."""
    verts = model.mean[None]
    camera = _camera(size, 25.0, model.mean.mean(0))
    albedo = torch.tensor(_SKIN).expand(1, len(model.mean), 3)
    images = [
        SoftRenderer(model.faces, SoftSettings((size, size), backend=backend, faces_per_pixel=60))(
            verts, camera, _lamp(-35, 30), albedo=albedo, background=torch.ones(3)
        ).image[0]
        for backend in ("pytorch3d", "numba")
    ]
    difference = (images[0] - images[1]).abs()
    panels = [_to_bytes(images[0]), _to_bytes(images[1])]
    panels.append((difference * DIFFERENCE_GAIN).clamp(0, 1).mul(255).byte().numpy())
    return np.concatenate(panels, axis=1), float(difference.max())


def eight_lights(model: LinearFaceModel, size: int) -> np.ndarray:
    """Returns the face under eight lights, without self-shadow above and with it below."""
    verts = model.mean[None]
    normals = vertex_normals(verts, model.faces)
    camera = _camera(size, 0.0, model.mean.mean(0))
    renderer = SoftRenderer(model.faces, SoftSettings((size, size)))
    albedo = torch.tensor(_SKIN).expand(1, len(model.mean), 3)
    transfers = (lambert_transfer(normals), self_shadow_transfer(verts, normals, model.faces, _N_DIRECTIONS))
    lamps = [_lamp(azimuth, elevation) for elevation in _ELEVATIONS_DEG for azimuth in _AZIMUTHS_DEG]
    rows = [
        np.concatenate(
            [_to_bytes(renderer(verts, camera, lamp, albedo=albedo, transfer=transfer).image[0]) for lamp in lamps],
            axis=1,
        )
        for transfer in transfers
    ]
    return np.concatenate(rows)


def plan(config: BenchmarkPicturesConfig) -> list[str]:
    """Returns what a run would do, in lines."""
    return [
        f"would draw the shipped face prior at {config.size} pixels",
        *outputs(str(Path(config.output) / COMPARISON), str(Path(config.output) / EIGHT_LIGHTS)),
    ]


def run(config: BenchmarkPicturesConfig) -> int:
    """Writes both pictures and prints the largest difference."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    model = load_prior()
    picture, difference = compare(model, config.size)
    Image.fromarray(picture).save(folder / COMPARISON, optimize=True)
    Image.fromarray(eight_lights(model, config.size)).quantize(256, dither=Image.Dither.NONE).save(
        folder / EIGHT_LIGHTS, optimize=True
    )
    print(f"largest difference of a colour from PyTorch3D's: {difference:.1e}")
    return 0
