"""Refinement explains a rendered face better with every step, keeps what it cannot see, and leaves cameras alone."""

import numpy as np
import pytest
import torch

from raylib.config import FitSettings
from raylib.detection.alignment import crop_face
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.geometry.mesh import vertex_normals
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import self_shadow_transfer, sh_basis
from raylib.morphable.model import REGIONS, load_prior
from raylib.refinement.refiner import Refiner
from raylib.render import SoftRenderer, SoftSettings

SIDE = 320


@pytest.fixture(scope="module")
def prior():
    return load_prior()


@pytest.fixture(scope="module")
def scene(prior):
    """Two faces with known albedo and light, their photographs, and the landmark fit to noisy landmarks."""
    torch.manual_seed(5)
    identity, expression = torch.randn(2, 100), torch.zeros(2, len(prior.expression))
    R = rotation_from_euler_deg(torch.tensor([[20.0, -5.0, 4.0], [-12.0, 6.0, -8.0]]))
    principal = torch.full((2, 2), SIDE / 2)
    camera = Camera(R, torch.tensor([[0.0, 10.0, 800.0]]).repeat(2, 1), torch.full((2,), 1100.0), principal)
    verts = prior.verts(identity, expression)
    albedo = torch.tensor([[0.55, 0.33, 0.24], [0.2, 0.11, 0.07]])[:, None].repeat(1, 2113, 1)
    lips = (prior.regions == REGIONS.index("upper_lip")) | (prior.regions == REGIONS.index("lower_lip"))
    albedo[:, lips] *= torch.tensor([1.0, 0.6, 0.6])
    albedo[:, prior.regions == REGIONS.index("brow")] *= 0.3
    lamps = torch.nn.functional.normalize(torch.tensor([[0.9, 0.3, 0.6], [-0.8, 0.5, 0.6]]), dim=1)
    light = 1.8 * sh_basis(lamps)[..., None] * torch.tensor([1.0, 0.97, 0.94])
    light[:, 0] += 1.6
    transfer = self_shadow_transfer(verts, vertex_normals(verts, prior.faces), prior.faces)
    renderer = SoftRenderer(prior.faces, SoftSettings(image_size=(SIDE, SIDE)))
    behind = torch.tensor([0.3, 0.25, 0.2])
    picture = renderer(verts, camera, SphericalHarmonicLight(light), albedo, background=behind, transfer=transfer)
    photos = (linear_to_srgb(picture.image).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    landmarks = camera.project(verts[:, prior.landmark_verts]) + torch.randn(2, 68, 2)
    crops = [crop_face(photo, points.numpy()) for photo, points in zip(photos, landmarks, strict=True)]
    faces = FaceBatch(
        landmarks,
        camera.focal_px,
        principal,
        np.stack([c.rgb for c in crops]),
        np.stack([c.to_photo for c in crops]),
    )
    fit = LandmarkFitter(prior, FitSettings()).fit(landmarks, camera.focal_px, principal)
    estimates = FaceEstimates(
        fit.camera, fit.verts_mm, fit.identity, fit.expression, fit.landmarks_px, fit.error_px, fit.error_iod
    )
    return faces, estimates, albedo, light


@pytest.fixture(scope="module")
def refined(prior, scene):
    return Refiner(prior, FitSettings())(*scene[:2], 25)


def test_the_rendering_comes_nearer_to_the_photograph(refined):
    assert (refined.psnr > refined.psnr_before + 1).all() and (refined.psnr > 34).all()


def test_pictures_of_refined_faces_are_what_the_psnr_is_of(prior, scene, refined):
    picture, target, weight = Refiner(prior, FitSettings()).pictures(scene[0], refined.estimates)
    error = ((picture - target).square().mean(-1) * weight).sum((1, 2)) / weight.sum((1, 2))
    assert weight.amax() == 1 and (weight.sum((1, 2)) > 1000).all()
    torch.testing.assert_close(-10 * error.log10(), refined.psnr, atol=0.05, rtol=0)


def test_landmarks_stay_explained(refined):
    assert (refined.estimates.error_iod < 1.1 * refined.error_iod_before + 1e-3).all()


def test_albedo_is_nearer_to_the_truth_than_the_colours_are(prior, scene, refined):
    """Up to one factor a face, which one picture cannot show."""
    faces, estimates, albedo, _ = scene
    refiner = Refiner(prior, FitSettings())
    target, weight = refiner._target(faces)
    colors, seen = refiner._colors_at_verts(
        estimates.verts_mm, faces.crop_camera(estimates.camera, refiner.size), target, weight
    )

    def spread(values):
        off = (values.clamp(min=1e-3).log() - albedo.log()).mean(-1)
        return torch.stack([o[s > 0.5].std() for o, s in zip(off, seen, strict=True)])

    assert (spread(refined.estimates.albedo) < 0.5 * spread(colors)).all()


def test_light_comes_from_the_right_side(scene, refined):
    truth, found = scene[3].mean(-1), refined.estimates.light_sh.mean(-1)
    assert (torch.nn.functional.cosine_similarity(truth[:, 1:4], found[:, 1:4]) > 0.8).all()


def test_the_camera_of_the_photograph_sees_what_the_crop_shows(prior, scene, refined):
    faces, after = scene[0], refined.estimates
    assert torch.allclose(after.camera.R @ after.camera.R.transpose(1, 2), torch.eye(3), atol=1e-4)
    assert torch.equal(after.camera.focal_px, scene[1].camera.focal_px)
    mouth = prior.landmark_verts[48:68]
    off = (after.camera.project(after.verts_mm[:, mouth]) - faces.landmarks_px[:, 48:68]).norm(dim=2).mean(1)
    assert (off < 4).all()


def test_what_a_hand_covers_takes_no_part(prior, scene):
    """A blue square over one cheek: labelled as background it leaves no blue in the albedo."""
    from dataclasses import replace

    faces, estimates = scene[:2]
    crops = faces.crops.copy()
    crops[:, 150:190, 150:190] = (20, 40, 230)
    labels = np.full(crops.shape[:3], 2, np.uint8)
    labels[:, 150:190, 150:190] = 0
    covered = Refiner(prior, FitSettings())(replace(faces, crops=crops, labels=labels), estimates, 5)
    naive = Refiner(prior, FitSettings())(replace(faces, crops=crops), estimates, 5)
    blue = [(r.estimates.albedo[..., 2] > r.estimates.albedo[..., 0]).sum().item() for r in (covered, naive)]
    assert blue[0] == 0 and blue[1] > 20, blue


def test_no_steps_leave_the_shape_as_it_was(prior, scene):
    faces, estimates = scene[:2]
    same = Refiner(prior, FitSettings())(faces, estimates, 0)
    assert torch.equal(same.estimates.verts_mm, estimates.verts_mm)
    assert torch.equal(same.psnr, same.psnr_before) and same.estimates.light_sh is not None
