"""A cascade of linear regressions that brings landmark fits nearer to the picture, before the network looks.

The supervised descent method (Xiong and De la Torre, "Supervised descent method and its applications to face
alignment", CVPR 2013) on the parameters of a face model: each step samples descriptors of the picture where the
present face projects and adds a linear function of them, and of the present fit, to pose, identity and expression.
Trained in closed form (`training.regressor.cascade`), it is most of what a few thousand faces can teach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from raylib.fitting.crop_space import CropFit, sample_at
from raylib.geometry.camera import FRONTAL, Camera, rotation_from_vector
from raylib.morphable.model import LinearFaceModel
from raylib.segmentation.labels import Label

POSE_STEPS = 6
"""Numbers of a step that are not coefficients: turn, shift, log depth."""
_ORIENTATIONS = 8
_COARSE_VERTS = 145  # the third level of the hemisphere's subdivision
_TYPICAL_DEPTH_MM = 700.0


def posed(fit: CropFit, step: Float[Tensor, "b c"], model: LinearFaceModel) -> CropFit:
    """Returns fits after a step: turn (3), shift (2), log depth, identity, expression.

    Args:
        fit: where the step starts.
        step: rotation vector in the crop's camera space, shares of the crop's side, logarithm, coefficients.
        model: the face model.
    """
    k = len(model.identity)
    camera = fit.camera
    depth = camera.T[:, 2:]
    moved = torch.cat([step[:, 3:5] * depth / camera.focal_px[:, None], torch.zeros_like(depth)], dim=1)
    low, high = model.expression_bounds.unbind(1)
    return CropFit(
        camera=Camera(
            rotation_from_vector(step[:, :3]) @ camera.R,
            (camera.T + moved) * step[:, 5:6].exp(),
            camera.focal_px,
            camera.principal_px,
        ),
        identity=fit.identity + step[:, POSE_STEPS : POSE_STEPS + k],
        expression=(fit.expression + step[:, POSE_STEPS + k :]).clamp(low, high),
        landmarks=fit.landmarks,
        fitted=fit.fitted,
    )


def descriptor_maps(
    image: UInt8[Tensor, "b h w 3"], labels: UInt8[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b c h2 w2"], Float[Tensor, "b d h4 w4"]]:
    """Returns pictures of descriptors: strengths of edges in eight directions, fine and coarse, and coarse labels.

    Strengths are relative to what is around them, so that they hardly change with the light.
    """
    gray = image.float().mean(3)[:, None] / 255
    padded = functional.pad(gray, (1, 1, 1, 1), mode="replicate")
    gx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    gy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    angle = torch.arange(_ORIENTATIONS, device=gray.device) * (2 * math.pi / _ORIENTATIONS)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    edges = torch.relu(gx * cos + gy * sin)
    # A picture of one colour has no edges at all.
    usual = edges.sum(1, keepdim=True).mean((2, 3), keepdim=True).clamp(min=1e-6)
    fine = functional.avg_pool2d(edges, 4, 2, 1)
    coarse = functional.avg_pool2d(fine, 6, 2, 2)
    around = functional.interpolate(coarse.sum(1, keepdim=True), fine.shape[2:], mode="bilinear")
    one_hot = functional.one_hot(labels.long(), len(Label)).permute(0, 3, 1, 2).float()
    shares = functional.avg_pool2d(one_hot, 4, 4)
    return fine / (around + usual), torch.cat([coarse / (coarse.sum(1, keepdim=True) + usual), shares], dim=1)


@dataclass(frozen=True)
class CascadedRegression:
    """Linear steps, applied in turn.

    Attributes:
        weights: of each step, on features of mean 0 and deviation 1.
        biases: of each step.
        means: of the features at each step.
        spreads: their deviations.
    """

    weights: Float[Tensor, "l f c"]
    biases: Float[Tensor, "l c"]
    means: Float[Tensor, "l f"]
    spreads: Float[Tensor, "l f"]

    @staticmethod
    def identity(model: LinearFaceModel) -> CascadedRegression:
        """Returns a cascade of no steps, which changes nothing."""
        c = POSE_STEPS + len(model.identity) + len(model.expression)
        return CascadedRegression(torch.zeros(0, 0, c), torch.zeros(0, c), torch.zeros(0, 0), torch.zeros(0, 0))

    def __getitem__(self, steps: slice) -> CascadedRegression:
        """Returns some of the steps."""
        return CascadedRegression(self.weights[steps], self.biases[steps], self.means[steps], self.spreads[steps])

    def then(self, more: CascadedRegression) -> CascadedRegression:
        """Returns these steps and more after them."""
        if not (len(self.weights) and len(more.weights)):
            return self if len(self.weights) else more
        return CascadedRegression(*(torch.cat([mine, getattr(more, name)]) for name, mine in self.__dict__.items()))

    def step(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns a step's weights, bias, and means and spreads of its features."""
        return self.weights[number], self.biases[number], self.means[number], self.spreads[number]

    def to(self, device: torch.device | str) -> CascadedRegression:
        """Returns the cascade on a device."""
        return CascadedRegression(*(t.to(device) for t in (self.weights, self.biases, self.means, self.spreads)))

    def __call__(
        self,
        maps: tuple[Tensor, Tensor],
        fit: CropFit,
        model: LinearFaceModel,
        share: Float[Tensor, "b 1"] | None = None,
    ) -> tuple[CropFit, Float[Tensor, "b f"]]:
        """Returns the fits after all steps, and what the last step looked at, standardised.

        No step at all returns the fits as they are, and no features.

        Args:
            maps: the crops' `descriptor_maps`.
            fit: where the first step starts.
            model: the face model.
            share: how much of each step is taken; all by default.
        """
        x = fit.identity[:, :0]
        for weight, bias, mean, spread in zip(self.weights, self.biases, self.means, self.spreads, strict=True):
            # Nothing in the training set was further out.
            x = ((cascade_features(maps, fit, model) - mean) / spread).clamp(-6, 6)
            step = x @ weight + bias
            fit = posed(fit, step if share is None else share * step, model)
        if len(self.weights):
            marks = fit.camera.project(model.verts(fit.identity, fit.expression)[:, model.landmark_verts])
            fit = CropFit(fit.camera, fit.identity, fit.expression, fit.landmarks, marks)
        return fit, x


def cascade_features(maps: tuple[Tensor, Tensor], fit: CropFit, model: LinearFaceModel) -> Float[Tensor, "b f"]:
    """Returns what a step looks at: the fit, its landmark residuals, and descriptors where its vertices project."""
    camera, b = fit.camera, len(fit.identity)
    index = torch.cat([torch.arange(_COARSE_VERTS, device=model.mean.device), model.landmark_verts])
    modes = torch.cat([model.identity[:, index], model.expression[:, index]]).flatten(1)
    moved = torch.cat([fit.identity, fit.expression], dim=1) @ modes
    at = camera.project(model.mean[index] + moved.reshape(b, -1, 3))
    seen = [sample_at(m, at * 2 - 1).flatten(1) for m in maps]
    residual = fit.landmarks - at[:, _COARSE_VERTS:]
    upright = camera.R.new_tensor(FRONTAL).T @ camera.R
    depth = camera.T[:, 2].clamp(min=1.0)
    origin = camera.T[:, :2] / depth[:, None] * camera.focal_px[:, None] + camera.principal_px
    scale = torch.stack([(camera.focal_px / depth * 220.0).log(), (depth / _TYPICAL_DEPTH_MM).log()], dim=1)
    fit_parts = [upright.flatten(1), scale, origin, residual.norm(dim=2).mean(1, keepdim=True)]
    marks = [fit.landmarks.flatten(1), residual.flatten(1)]
    return torch.cat([*fit_parts, fit.identity, fit.expression, *marks, *seen], dim=1)
