"""Landmark fitting: recovery of synthetic truth, equivariance, bounds, robustness, the sliding jaw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raylib.config import FitSettings
from raylib.errors import ConfigError
from raylib.fitting.landmarks import JAW, LandmarkFit, LandmarkFitter, fit_landmarks
from raylib.geometry.camera import Camera, euler_deg, rotation_from_euler_deg
from raylib.morphable.model import LinearFaceModel, load_prior

SHARP = FitSettings(landmark_sigma_mm=0.05, contour_sigma_mm=0.05, size_sigma=1.0, alternations=8)


def cameras(angles: list[list[int]], distance_mm: float = 700.0) -> Camera:
    b = len(angles)
    T = torch.tensor([[5.0, -20.0, distance_mm]]).repeat(b, 1)
    return Camera(
        rotation_from_euler_deg(torch.tensor(angles, dtype=torch.float32)),
        T,
        torch.full((b,), 720.0),
        torch.full((b, 2), 128.0),
    )


def visible_landmarks(model: LinearFaceModel, verts: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Projects the landmarks; those of the jaw are the outermost vertex of their line, found one by one."""
    px = camera.project(verts[:, model.landmark_verts])
    for f in range(len(verts)):
        up = camera.R[f, :2, 1]
        for i in range(JAW):
            line = model.contour_verts[i][model.contour_verts[i] >= 0]
            points = camera.project(verts[:, line])[f]
            outwards = torch.stack([-up[1], up[0]]) * (-1.0 if i < 8 else 1.0)
            px[f, i] = points[(points @ outwards).argmax()]
    return px


@pytest.fixture(scope="module")
def few_modes() -> LinearFaceModel:
    """The prior with as many unknowns as 68 landmarks determine well."""
    prior = load_prior()
    return replace(
        prior,
        identity=prior.identity[:8],
        expression=prior.expression[26:30],
        expression_bounds=prior.expression_bounds[26:30],
    )


@pytest.fixture(scope="module")
def random_faces(few_modes: LinearFaceModel) -> tuple[Camera, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    camera = cameras([[0, 0, 0], [25, 8, -10], [-40, -12, 5], [10, 15, 30], [-20, 0, -25], [44, 3, 0]])
    identity = 0.7 * torch.randn(6, 8, generator=g)
    expression = torch.rand(6, 4, generator=g) * (torch.rand(6, 4, generator=g) < 0.6)
    return camera, identity, expression, visible_landmarks(few_modes, few_modes.verts(identity, expression), camera)


@pytest.fixture(scope="module")
def recovered(few_modes, random_faces) -> LandmarkFit:
    camera, _, _, px = random_faces
    return fit_landmarks(few_modes, px, camera.focal_px, camera.principal_px, SHARP)


def test_exact_landmarks_give_back_pose_identity_and_expression(few_modes, random_faces, recovered):
    camera, identity, expression, px = random_faces
    assert recovered.error_px.max() < 0.1
    assert (euler_deg(recovered.camera.R) - euler_deg(camera.R)).abs().max() < 0.5
    assert (recovered.camera.T - camera.T).abs().max() < 7  # one per cent of the distance
    assert (recovered.verts_mm - few_modes.verts(identity, expression)).norm(dim=2).mean() < 0.5
    assert (recovered.expression - expression).abs().max() < 0.15
    torch.testing.assert_close(recovered.landmarks_px, px, atol=0.3, rtol=0)


def test_result_is_consistent_with_the_model_and_camera(few_modes, recovered):
    torch.testing.assert_close(recovered.verts_mm, few_modes.verts(recovered.identity, recovered.expression))
    rows = torch.arange(6)[:, None]
    marks = recovered.verts_mm[rows, recovered.landmark_verts]
    torch.testing.assert_close(recovered.camera.project(marks), recovered.landmarks_px, atol=2e-3, rtol=0)
    R = recovered.camera.R
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand(6, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(R) > 0).all()


def noisy(random_faces, sigma: float = 1.0) -> tuple[Camera, torch.Tensor]:
    camera, _, _, px = random_faces
    return camera, px + sigma * torch.randn(px.shape, generator=torch.Generator().manual_seed(1))


def test_a_batch_equals_its_faces_one_by_one(random_faces):
    camera, px = noisy(random_faces)
    fitter = LandmarkFitter(load_prior(), FitSettings())
    together = fitter.fit(px, camera.focal_px, camera.principal_px)
    for i in range(len(px)):
        one = slice(i, i + 1)
        alone = fitter.fit(px[one], camera.focal_px[one], camera.principal_px[one])
        torch.testing.assert_close(alone.verts_mm[0], together.verts_mm[i], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.camera.R[0], together.camera.R[i], atol=1e-5, rtol=0)


def test_moving_and_scaling_the_image_changes_only_the_camera(random_faces):
    camera, px = noisy(random_faces)
    fitter = LandmarkFitter(load_prior(), FitSettings())
    here = fitter.fit(px, camera.focal_px, camera.principal_px)
    shift = torch.tensor([300.0, -50.0])
    there = fitter.fit(4 * px + shift, 4 * camera.focal_px, 4 * camera.principal_px + shift)
    torch.testing.assert_close(there.verts_mm, here.verts_mm, atol=1e-2, rtol=0)
    torch.testing.assert_close(there.camera.T, here.camera.T, atol=1e-1, rtol=0)
    torch.testing.assert_close(there.landmarks_px, 4 * here.landmarks_px + shift, atol=1e-2, rtol=0)
    torch.testing.assert_close(there.error_iod, here.error_iod, atol=1e-4, rtol=0)


def test_turning_the_image_turns_the_pose_about_the_optical_axis(random_faces):
    camera, px = noisy(random_faces)
    fitter = LandmarkFitter(load_prior(), FitSettings())
    here = fitter.fit(px, camera.focal_px, camera.principal_px)
    a = torch.deg2rad(torch.tensor(70.0))
    turn = torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
    there = fitter.fit((px - 128) @ turn.T + 128, camera.focal_px, camera.principal_px)
    full = torch.eye(3)
    full[:2, :2] = turn
    torch.testing.assert_close(there.verts_mm, here.verts_mm, atol=1e-2, rtol=0)
    torch.testing.assert_close(there.camera.R, full @ here.camera.R, atol=1e-4, rtol=0)


def test_coefficients_stay_within_bounds_on_impossible_landmarks(random_faces):
    camera, px = noisy(random_faces, sigma=25.0)
    fit = LandmarkFitter(load_prior(), FitSettings()).fit(px, camera.focal_px, camera.principal_px)
    low, high = load_prior().expression_bounds.unbind(1)
    assert (fit.expression >= low).all()
    assert (fit.expression <= high).all()
    assert (fit.expression == low).any()
    for value in (fit.verts_mm, fit.camera.T, fit.landmarks_px, fit.identity):
        assert torch.isfinite(value).all()


def test_the_fit_beats_the_mean_face_under_noise(few_modes, random_faces):
    camera, px = noisy(random_faces)
    truth = few_modes.verts(random_faces[1], random_faces[2])
    prior = load_prior()
    fit = LandmarkFitter(prior, FitSettings()).fit(px, camera.focal_px, camera.principal_px)
    ours = (fit.verts_mm - truth).norm(dim=2).mean()
    assert ours < 0.7 * (prior.mean - truth).norm(dim=2).mean()
    assert (euler_deg(fit.camera.R) - euler_deg(camera.R)).abs().mean() < 1.5


def test_one_wild_landmark_moves_the_face_little(random_faces):
    camera, px = noisy(random_faces, sigma=0.5)
    wild = px.clone()
    wild[:, 33] += torch.tensor([25.0, 10.0])
    prior = load_prior()
    moved = {}
    for name, limit in (("huber", 2.5), ("squares", 1e6)):
        fitter = LandmarkFitter(prior, FitSettings(outlier_sigmas=limit))
        good, bad = (fitter.fit(p, camera.focal_px, camera.principal_px).verts_mm for p in (px, wild))
        moved[name] = (good - bad).norm(dim=2).mean()
    assert moved["huber"] < 0.5 * moved["squares"]


def test_a_sliding_jaw_helps_on_turned_faces():
    prior = load_prior()
    g = torch.Generator().manual_seed(8)
    camera = cameras([[30, 0, 0], [38, 5, 0], [45, -5, 3], [-32, 0, 0], [-40, 8, 0], [-45, 0, -5]])
    truth = prior.verts(torch.randn(6, prior.identity.shape[0], generator=g))
    px = visible_landmarks(prior, truth, camera)
    px += 0.5 * torch.randn(px.shape, generator=g)
    stiff = replace(prior, contour_verts=prior.contour_verts[:, :1])
    sliding, fixed = (
        (fit_landmarks(model, px, camera.focal_px, camera.principal_px, FitSettings()).verts_mm - truth)
        for model in (prior, stiff)
    )
    assert sliding.norm(dim=2).mean() < 0.9 * fixed.norm(dim=2).mean()


def test_landmarks_without_a_vertex_are_left_out(random_faces):
    prior = load_prior()
    without = replace(prior, landmark_verts=prior.landmark_verts.clone().index_fill_(0, torch.tensor([60, 64]), -1))
    camera, px = noisy(random_faces)
    disturbed = px.clone()
    disturbed[:, [60, 64]] += 50.0
    fitter = LandmarkFitter(without, FitSettings())
    a, b = (fitter.fit(p, camera.focal_px, camera.principal_px) for p in (px, disturbed))
    torch.testing.assert_close(a.verts_mm, b.verts_mm)
    assert a.landmarks_px[:, [60, 64]].isnan().all()
    assert a.landmarks_px[:, :60].isfinite().all()
    assert (a.landmark_verts[:, [60, 64]] == -1).all()
    assert a.error_px.isfinite().all()


def test_a_model_without_expressions_can_be_fitted(random_faces):
    prior = load_prior()
    plain = replace(prior, expression=prior.expression[:0], expression_bounds=prior.expression_bounds[:0])
    camera, px = noisy(random_faces)
    fit = LandmarkFitter(plain, FitSettings()).fit(px, camera.focal_px, camera.principal_px)
    assert fit.expression.shape == (6, 0)
    assert fit.error_px.max() < 4


def test_an_empty_batch_gives_an_empty_fit():
    prior = load_prior()
    fit = LandmarkFitter(prior, FitSettings()).fit(torch.zeros(0, 68, 2), torch.zeros(0), torch.zeros(0, 2))
    assert fit.verts_mm.shape == (0, len(prior.mean), 3)


def test_a_model_with_too_few_landmarks_is_refused():
    prior = load_prior()
    bare = replace(prior, landmark_verts=torch.full((68,), -1), contour_verts=prior.contour_verts[:0])
    with pytest.raises(ConfigError, match="defines 0 landmarks"):
        LandmarkFitter(bare, FitSettings())


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="landmark_sigma_mm is 0"):
        FitSettings(landmark_sigma_mm=0)
