"""Faces rendered from the shipped prior, simple on purpose: something to train on where there is no photograph.

A face is a function of its seed: random identity, a little expression, pose, smooth light, colours by region of the
face, and a background of two colours.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylib.datasets.face_set import FaceSet
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.morphable.model import REGIONS, LinearFaceModel, load_prior
from raylib.render import SoftRenderer, SoftSettings, rasterize_pixels
from raylib.runtime.progress import watched
from raylib.segmentation.labels import Label

_LABEL_OF_REGION = {
    "skin": Label.SKIN,
    "brow": Label.HAIR,
    "eye": Label.EYES,
    "nose": Label.NOSE,
    "upper_lip": Label.MOUTH,
    "lower_lip": Label.MOUTH,
    "inner_mouth": Label.MOUTH,
}
# Linear albedo of dark and light skin; the regions' colours are drawn about multiples of a person's own skin.
_SKIN_DARK, _SKIN_LIGHT = (0.09, 0.045, 0.03), (0.62, 0.40, 0.30)
_DISTANCE_MM = 900.0
_FACE_SHARE = 0.62
"""Part of the crop's height that the face mask fills; the rest is the hair and neck that it lacks."""


def _albedo(model: LinearFaceModel, rng: np.random.Generator) -> Float[Tensor, "v 3"]:
    assert model.regions is not None
    tone = rng.uniform()
    skin = (1 - tone) * np.array(_SKIN_DARK) + tone * np.array(_SKIN_LIGHT)
    lips = skin * [1.0, rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.75)]
    color = {
        "skin": skin,
        "brow": skin * rng.uniform(0.1, 0.5),
        "eye": np.full(3, rng.uniform(0.35, 0.6)),
        "nose": skin * [1.03, 0.97, 0.97],
        "upper_lip": lips * 0.9,
        "lower_lip": lips,
        "inner_mouth": lips * 0.4,
    }
    table = torch.from_numpy(np.stack([color[name] for name in REGIONS])).float()
    return table[model.regions]


def _light(rng: np.random.Generator) -> Float[Tensor, "1 9 3"]:
    """Smooth light with its bright side somewhere before the face, a little tinted."""
    direction = np.array([rng.normal() * 0.7, rng.normal() * 0.5 + 0.2, 1.0])
    direction /= np.linalg.norm(direction)
    strength = rng.uniform(0.3, 0.9)
    coefficients = np.zeros((9, 3))
    coefficients[0] = math.sqrt(4 * math.pi) * rng.uniform(0.8, 1.3)
    # The linear harmonics are ordered y, z, x.
    coefficients[1:4] = (strength * coefficients[0, 0] * direction[[1, 2, 0]])[:, None]
    return torch.from_numpy(coefficients * rng.uniform(0.9, 1.1, 3)).float()[None]


def _face(model: LinearFaceModel, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    assert model.regions is not None
    rng = np.random.default_rng(seed)
    identity = torch.from_numpy(rng.normal(size=(1, len(model.identity)))).float()
    expression = torch.from_numpy(rng.uniform(0, 0.5, (1, len(model.expression)))).float()
    expression *= torch.from_numpy(rng.uniform(size=expression.shape) < 0.06)
    verts = model.verts(identity, expression)
    angles = torch.tensor([[rng.uniform(-35, 35), rng.uniform(-12, 12), rng.uniform(-5, 5)]]).float()
    R = rotation_from_euler_deg(angles)
    centre = (model.mean.amin(0) + model.mean.amax(0)) / 2
    offset = torch.tensor([*rng.uniform(-6, 6, 2), _DISTANCE_MM]).float()
    height = float(np.ptp(model.mean[:, 1].numpy()))
    focal = size * _FACE_SHARE / height * _DISTANCE_MM * rng.uniform(0.93, 1.07)
    camera = Camera(R, (offset - R[0] @ centre)[None], torch.tensor([focal]).float(), torch.full((1, 2), size / 2))
    rows = torch.linspace(0, 1, size)[:, None, None]
    top, bottom = torch.from_numpy(rng.uniform(0, 0.5, (2, 3))).float()
    background = ((1 - rows) * top + rows * bottom).expand(size, size, 3)
    renderer = SoftRenderer(model.faces, SoftSettings((size, size)))
    light = SphericalHarmonicLight(_light(rng))
    picture = renderer(verts, camera, light, albedo=_albedo(model, rng)[None], background=background).image[0]
    noise = torch.from_numpy(rng.normal(scale=0.01, size=picture.shape)).float()
    image = (linear_to_srgb(picture.clamp(0, 1)) + noise).clamp(0, 1)

    in_camera = camera.to_camera(verts)
    pixels = torch.cat([camera.project(verts), in_camera[..., 2:]], dim=2).numpy()
    fragments = rasterize_pixels(pixels, model.faces.numpy(), (size, size))
    face = fragments.pix_to_face[0]
    corner = fragments.bary_coords[0].argmax(2)
    region = model.regions.numpy()[model.faces.numpy()[face.clip(0), corner]]
    table = np.array([_LABEL_OF_REGION[name] for name in REGIONS], np.uint8)
    labels = np.where(face >= 0, table[region], np.uint8(Label.BACKGROUND))
    return (image.numpy() * 255).round().astype(np.uint8), labels


@torch.no_grad()
def render_faces(count: int, size: int, first_seed: int = 0) -> FaceSet:
    """Returns faces with the labels that their geometry gives them.

    Args:
        count: number of faces.
        size: side of the pictures in pixels.
        first_seed: seed of the first; the others follow.
    """
    model = load_prior()
    shown = watched(range(count), "faces rendered")
    return FaceSet.of([_face(model, first_seed + i, size) for i in shown], size)
