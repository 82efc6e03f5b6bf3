"""Random changes to samples of the network that corrects landmark fits: mirror images, framing, landmarks, colours.

The truth changes with the picture: a mirrored face has the mirrored shape under the mirrored light, a turned crop the
turned pose, a brighter picture the brighter light.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional

from raylib.config import FitSettings
from raylib.detection.detector import MIRRORED_LANDMARKS
from raylib.fitting.crop_space import CropFit
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import Camera
from raylib.morphable.model import LinearFaceModel
from raylib.training.augmentation import Augmentation, random_colour, random_degradation, random_occlusion
from raylib.training.regressor.samples import FaceSampleBatch

_RECOLOURED = 0.35
"""Share of synthetic faces whose colours change beyond what the truth of light says; their light is not learned."""
_CHANGES = Augmentation(occlusion=0.2, degrade=0.15)
_TURN_DEG, _ZOOM, _SHIFT = 10.0, 0.1, 0.05
_FIT_PX = 1000.0  # the fit's limits are meant for pixels, not for shares of a crop

# Harmonics that change their sign with x: x, xy and xz.
_LIGHT_SIGNS = (1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0)


def coefficient_solver(
    model: LinearFaceModel, weights: Float[Tensor, " v"], ridge: float = 0.02
) -> Float[Tensor, "c w"]:
    """Returns the matrix from weighted displacements of the vertices to coefficients of identity and expression.

    Args:
        model: the face model.
        weights: square roots of the vertices' weights.
        ridge: how strongly coefficients are held to zero where vertices say nothing, square millimetres.
    """
    flat = (torch.cat([model.identity, model.expression]) * weights[:, None]).flatten(1).double()
    gram = flat @ flat.T + 3 * ridge * torch.eye(len(flat), dtype=torch.float64)
    return torch.linalg.solve(gram, flat).float()


class FaceAugmentation:
    """Changes samples at random; holds what depends on the face model alone.

    Args:
        model: the face model, with mirror pairs.
    """

    def __init__(self, model: LinearFaceModel):
        assert model.mirror_verts is not None
        self.model, self._mirror = model, model.mirror_verts
        self._solve = coefficient_solver(model, torch.ones(len(model.mean)))
        self._fitter = LandmarkFitter(model, FitSettings())

    def __call__(self, batch: FaceSampleBatch, rng: Generator) -> tuple[FaceSampleBatch, Bool[Tensor, " b"]]:
        """Returns changed samples, and which of them have the colours that their truth says.

        Args:
            batch: samples, all with truth or all without.
            rng: the same state gives the same changes.
        """
        if bool(torch.rand((), generator=rng) < 0.5):
            batch = self.mirrored(batch)
        batch = reframed(batch, rng)
        if bool((batch.truth.known > 0.5).all()) and bool(torch.rand((), generator=rng) < 0.5):
            batch = self.relandmarked(batch, rng)
        return recoloured(batch, rng)

    def mirrored(self, batch: FaceSampleBatch) -> FaceSampleBatch:
        """Returns the mirror images of all samples."""
        fit, truth = batch.fit, batch.truth
        flip = torch.tensor([-1.0, 1.0, 1.0])
        verts = self.model.verts(fit.identity, fit.expression)
        moved = (verts[:, self._mirror] * flip - self.model.mean).flatten(1)
        coefficients = moved @ self._solve.T
        k = len(self.model.identity)
        low, high = self.model.expression_bounds.unbind(1)
        return FaceSampleBatch(
            images=batch.images.flip(2),
            labels=batch.labels.flip(2),
            fit=CropFit(
                camera=_mirrored_camera(fit.camera),
                identity=coefficients[:, :k],
                expression=coefficients[:, k:].clamp(low, high),
                landmarks=_mirrored_points(fit.landmarks),
                fitted=_mirrored_points(fit.fitted),
            ),
            truth=replace(
                truth,
                camera=_mirrored_camera(truth.camera),
                verts_mm=truth.verts_mm[:, self._mirror] * flip,
                albedo=truth.albedo[:, self._mirror],
                light_sh=truth.light_sh * torch.tensor(_LIGHT_SIGNS)[:, None],
            ),
        )

    def relandmarked(self, batch: FaceSampleBatch, rng: Generator) -> FaceSampleBatch:
        """Returns samples whose landmarks lie anywhere between the detector's and the truth, fitted anew.

        On photographs, which it was trained on, the detector errs less than on synthetic faces.
        """
        truth, fit = batch.truth, batch.fit
        exact = truth.camera.project(truth.verts_mm[:, self.model.landmark_verts])
        share = torch.rand(len(exact), 1, 1, generator=rng)
        marks = fit.landmarks + share * (exact - fit.landmarks)
        camera = fit.camera
        found = self._fitter.fit(marks * _FIT_PX, camera.focal_px * _FIT_PX, camera.principal_px * _FIT_PX)
        usable = torch.isfinite(found.verts_mm).flatten(1).all(1) & (found.camera.T[:, 2] > 100)
        if not bool(usable.all()):
            return batch
        posed = Camera(found.camera.R, found.camera.T, camera.focal_px, camera.principal_px)
        return replace(
            batch, fit=CropFit(posed, found.identity, found.expression, marks, found.landmarks_px / _FIT_PX)
        )


def _mirrored_camera(camera: Camera) -> Camera:
    flip = camera.R.new_tensor([-1.0, 1.0, 1.0])
    principal = torch.stack([1 - camera.principal_px[:, 0], camera.principal_px[:, 1]], dim=1)
    return Camera(flip[:, None] * camera.R * flip, camera.T * flip, camera.focal_px, principal)


def _mirrored_points(points: Float[Tensor, "b 68 2"]) -> Float[Tensor, "b 68 2"]:
    points = points[:, MIRRORED_LANDMARKS.tolist()]
    return torch.stack([1 - points[..., 0], points[..., 1]], dim=2)


def reframed(batch: FaceSampleBatch, rng: Generator) -> FaceSampleBatch:
    """Returns samples seen through crops that are turned, enlarged and moved a little."""
    b = len(batch.images)

    def uniform() -> Tensor:
        return 2 * torch.rand(b, generator=rng) - 1

    angle, zoom = math.radians(_TURN_DEG) * uniform(), torch.exp(_ZOOM * uniform())
    shift = _SHIFT * torch.stack([uniform(), uniform()], dim=1)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # new crop -> old crop
    linear = turn / zoom[:, None, None]
    # In -1..1, about the middle: old = linear @ new + 2 shift.
    grid = functional.affine_grid(
        torch.cat([linear, 2 * shift[:, :, None]], dim=2), [b, 1, *batch.labels.shape[1:]], align_corners=False
    )
    image = functional.grid_sample(
        batch.images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False
    )
    labels = functional.grid_sample(
        batch.labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )

    def points(old: Tensor) -> Tensor:
        return (old - 0.5 - shift[:, None]) @ (turn * zoom[:, None, None]) + 0.5

    def camera(old: Camera) -> Camera:
        back = torch.eye(3).repeat(b, 1, 1)
        back[:, :2, :2] = turn.transpose(1, 2)
        return Camera(
            back @ old.R,
            (back @ old.T[..., None])[..., 0],
            old.focal_px * zoom,
            points(old.principal_px[:, None])[:, 0],
        )

    fit, truth = batch.fit, batch.truth
    return FaceSampleBatch(
        images=image.round().clamp(0, 255).byte().permute(0, 2, 3, 1),
        labels=labels[:, 0].byte(),
        fit=CropFit(camera(fit.camera), fit.identity, fit.expression, points(fit.landmarks), points(fit.fitted)),
        truth=replace(truth, camera=camera(truth.camera)),
    )


def recoloured(batch: FaceSampleBatch, rng: Generator) -> tuple[FaceSampleBatch, Bool[Tensor, " b"]]:
    """Returns samples in other colours, blurred, noisy and covered, and which of them keep true colours."""
    b = len(batch.images)
    image = batch.images.permute(0, 3, 1, 2).float() / 255
    known = batch.truth.known > 0.5
    gain = torch.exp(0.25 * torch.randn(b, 1, generator=rng) + 0.06 * torch.randn(b, 3, generator=rng))
    gain = torch.where(known[:, None], gain.clamp(0.5, 1.6), 1.0)
    # Nearly what the sRGB curve makes of a factor on linear light.
    image = (image * gain[:, :, None, None] ** (1 / 2.2)).clamp(0, 1)
    wild = (torch.rand(b, generator=rng) < _RECOLOURED) & known
    if bool(wild.any()):
        image[wild] = random_colour(image[wild], _CHANGES, rng)
    image = random_degradation(image, _CHANGES, rng)
    image, labels = random_occlusion(image, batch.labels, _CHANGES, rng)
    images = (image.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    truth = replace(batch.truth, light_sh=batch.truth.light_sh * gain[:, None])
    return replace(batch, images=images, labels=labels, truth=truth), known & ~wild
