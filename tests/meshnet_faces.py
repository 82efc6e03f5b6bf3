"""Synthetic faces for the tests of the network: the prior under random light, with landmarks that err."""

from __future__ import annotations

import torch

from raylib.config import FitSettings
from raylib.fitting.crop_space import CropFit
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.morphable.model import LinearFaceModel
from raylib.regressor.cascade import CascadedRegression, cascade_features, descriptor_maps
from raylib.render import SoftRenderer, SoftSettings
from raylib.segmentation.labels import Label
from raylib.training.regressor.samples import FaceSampleBatch, FaceTruth


def rendered_samples(
    model: LinearFaceModel, n: int, seed: int, size: int = 128, bias: float = 0.0
) -> FaceSampleBatch:
    """Returns samples with known truth; their landmarks are off by a millimetre, the fits accordingly.

    Args:
        model: the face model.
        n: number of faces.
        seed: of everything random.
        size: side of the pictures.
        bias: by how much of the picture's side the landmarks of brows and nose are too high in every picture.
    """
    g = torch.Generator().manual_seed(seed)
    identity = torch.randn(n, len(model.identity), generator=g)
    verts = model.verts(identity)
    R = rotation_from_euler_deg((2 * torch.rand(n, 3, generator=g) - 1) * torch.tensor([25.0, 10.0, 5.0]))
    camera = Camera(
        R, torch.tensor([[0.0, 20.0, 700.0]]).repeat(n, 1), torch.full((n,), 700 / 240), torch.full((n, 2), 0.5)
    )
    albedo = torch.tensor([0.5, 0.35, 0.27]) * torch.exp(0.3 * torch.randn(n, 1, 3, generator=g))
    albedo = albedo.expand(n, len(model.mean), 3).contiguous()
    light = torch.zeros(n, 9, 3)
    light[:, 0] = 2.5
    light[:, 1:4] = 0.8 * torch.randn(n, 3, 1, generator=g)
    pixels = Camera(R, camera.T, camera.focal_px * size, camera.principal_px * size)
    renderer = SoftRenderer(model.faces, SoftSettings((size, size)))
    picture = renderer(verts, pixels, SphericalHarmonicLight(light), albedo, background=torch.full((3,), 0.2))
    images = (linear_to_srgb(picture.image.clamp(0, 1)).clamp(0, 1) * 255).round().byte()
    labels = torch.where(picture.alpha > 0.5, int(Label.SKIN), int(Label.BACKGROUND)).byte()
    marks = camera.project(verts[:, model.landmark_verts])
    marks = marks + torch.randn(marks.shape, generator=g) / 240
    marks[:, 17:36, 1] -= bias
    found = LandmarkFitter(model, FitSettings()).fit(marks * 1000, camera.focal_px * 1000, camera.principal_px * 1000)
    fit_camera = Camera(found.camera.R, found.camera.T, camera.focal_px, camera.principal_px)
    fit = CropFit(fit_camera, found.identity, found.expression, marks, found.landmarks_px / 1000)
    truth = FaceTruth(camera, verts, albedo, light, torch.ones(n))
    return FaceSampleBatch(images, labels, fit, truth)


def telling_cascade(model: LinearFaceModel, samples: FaceSampleBatch, seed: int = 2) -> CascadedRegression:
    """A cascade of two steps that say something."""
    features = cascade_features(descriptor_maps(samples.images, samples.labels), samples.fit, model)
    g, c = torch.Generator().manual_seed(seed), 6 + len(model.identity) + len(model.expression)
    weight = 2e-4 * torch.randn(2, features.shape[1], c, generator=g)
    mean, spread = features.mean(0), features.std(0).clamp(min=0.05)
    return CascadedRegression(weight, torch.zeros(2, c), mean.repeat(2, 1), spread.repeat(2, 1))
