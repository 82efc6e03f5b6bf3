"""Between a landmark fit and the network that corrects it: what the network is shown, and what its answer means.

Everything here is in the space of the aligned crop, whose side is 1: a face that is turned, moved or enlarged in the
photograph gives the same inputs, and the corrections turn, move and grow with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from raylib.fitting.crop_space import CropFit, sample_at
from raylib.geometry.camera import FRONTAL, Camera, rotation_from_vector
from raylib.geometry.mesh import vertex_normals
from raylib.lighting.color import srgb_to_linear
from raylib.lighting.spherical_harmonics import lambert_transfer, self_shadow_transfer
from raylib.morphable.model import LinearFaceModel
from raylib.regressor.cascade import CascadedRegression, descriptor_maps
from raylib.regressor.network import FaceCorrections, FaceInputs
from raylib.regressor.novelty import OutOfDistributionScore
from raylib.regressor.uncertainty import LogErrorModel
from raylib.segmentation.labels import Label

Network = Callable[[FaceInputs], FaceCorrections]
"""A network, in whatever arithmetic; geometry around it stays in single precision."""
VERTEX_CHANNELS = 27
"""Number of vertex features; see `RegressorGeometry.inputs`."""
IMAGE_CHANNELS = 3 + len(Label)
_TYPICAL_DEPTH_MM = 700.0
_SKIN = (Label.SKIN, Label.NOSE)
_BARE = (Label.SKIN, Label.EYES, Label.NOSE, Label.MOUTH)
_MIN_SHADING = 0.05
_MIN_ALBEDO = 0.01
_RIDGE = 0.03  # how strongly the first light is held to an even one, as a share of what the picture says


def fit_channels(model: LinearFaceModel) -> int:
    """Returns the number of fit features for a model; see `RegressorGeometry.inputs`."""
    return 14 + len(model.identity) + len(model.expression) + 4 * 68 + 27


@dataclass(frozen=True)
class InitialLight:
    """What the picture says of the light if the face had the average albedo and the fitted shape.

    Attributes:
        exposure: brightness of each channel.
        shape: harmonics' coefficients in units of the exposure.
    """

    exposure: Float[Tensor, "b 3"]
    shape: Float[Tensor, "b 9 3"]


@dataclass(frozen=True)
class CropEstimate:
    """Faces after correction, in the space of their crops.

    Attributes:
        camera: pose, and camera of the crop.
        identity: identity coefficients.
        expression: expression coefficients.
        offsets_mm: displacement of the vertices from the linear model's.
        verts_mm: vertices in canonical space.
        albedo: linear RGB.
        light_sh: so that albedo times shading is linear RGB.
        sigma_mm: standard deviation of each vertex's position.
        strangeness: logarithm of how much of the picture the training's main directions leave
            (`OutOfDistributionScore`); NaN
            where none were learned.
    """

    camera: Camera
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    offsets_mm: Float[Tensor, "b v 3"]
    verts_mm: Float[Tensor, "b v 3"]
    albedo: Float[Tensor, "b v 3"]
    light_sh: Float[Tensor, "b 9 3"]
    sigma_mm: Float[Tensor, "b v"]
    strangeness: Float[Tensor, " b"]


@dataclass(frozen=True)
class CascadeOutput(CropFit):
    """Fits where the network starts.

    Attributes:
        appearance_features: what their pictures look like to the cascade (`OutOfDistributionScore`).
    """

    appearance_features: Float[Tensor, "b l"]


class RegressorGeometry:
    """Prepares the network's inputs and applies its corrections; holds what depends on the face model alone.

    Args:
        model: the face model, on the hemisphere's topology.
        mean_albedo: albedo that is assumed before the network has spoken, linear RGB.
        cascade: what brings the fits nearer before the network looks.
        average_sigma: uncertainty of each vertex before the network has spoken, millimetres; 1 by default.
        trend: what the fits themselves tell of the errors; nothing by default.
        strangeness: which pictures are far from the training's; none by default.
        gated_step: last step of the fits, for pictures that are not strange; none by default.
    """

    def __init__(
        self,
        model: LinearFaceModel,
        mean_albedo: Float[Tensor, "v 3"],
        cascade: CascadedRegression,
        average_sigma: Float[Tensor, " v"] | None = None,
        trend: LogErrorModel | None = None,
        strangeness: OutOfDistributionScore | None = None,
        gated_step: CascadedRegression | None = None,
    ):
        self.model = model
        self.mean_albedo = mean_albedo
        self.cascade = cascade
        self.average_sigma = torch.ones(len(model.mean)) if average_sigma is None else average_sigma
        self.trend = trend or LogErrorModel.empty(len(model.mean))
        self.strangeness = strangeness or OutOfDistributionScore.none()
        self.gated_step = gated_step or CascadedRegression.identity(model)
        normals = vertex_normals(model.mean[None], model.faces)
        # What the average face's own shadow takes away; a face's exact shadow costs more than the whole network.
        full = self_shadow_transfer(model.mean[None], normals, model.faces)
        self.shadow: Float[Tensor, "v 9"] = (full - lambert_transfer(normals))[0]

    def to(self, device: torch.device | str) -> RegressorGeometry:
        """Moves everything to a device and returns itself."""
        m = self.model
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(m) if isinstance(value := getattr(m, f.name), Tensor)
        }
        self.model = replace(m, **moved)
        self.mean_albedo, self.shadow = self.mean_albedo.to(device), self.shadow.to(device)
        self.cascade, self.average_sigma = self.cascade.to(device), self.average_sigma.to(device)
        self.trend, self.strangeness = self.trend.to(device), self.strangeness.to(device)
        self.gated_step = self.gated_step.to(device)
        return self

    def transfer(self, normals: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 9"]:
        """Returns transfer coefficients with the average face's self-shadow (see `lighting`)."""
        return lambert_transfer(normals) + self.shadow

    def first_light(
        self, color: Float[Tensor, "b v 3"], normals: Float[Tensor, "b v 3"], weight: Float[Tensor, "b v"]
    ) -> InitialLight:
        """Returns the light that explains colours of vertices best, by weighted least squares held to an even light.

        Args:
            color: linear RGB seen at the vertices.
            normals: unit normals in canonical space.
            weight: 0 where the vertex is not seen.
        """
        transfer = self.transfer(normals)
        even = transfer.new_zeros(9)
        even[0] = (4 * torch.pi) ** 0.5
        plain = (transfer @ even)[..., None] * self.mean_albedo  # under an even light of radiance 1
        w = weight[..., None]
        exposure = (w * color).sum(1) / (w * plain).sum(1).clamp(min=1e-4)
        exposure = torch.where((weight.sum(1) > 1.0)[:, None], exposure, 0.5).clamp(min=0.01)
        target = color / exposure[:, None] - plain
        shapes = []
        for channel in range(3):
            rows = transfer * self.mean_albedo[:, channel, None]
            weighted = rows * w
            A = weighted.transpose(1, 2) @ rows
            ridge = _RIDGE * A[:, 0, 0].clamp(min=1e-3)
            A = A + ridge[:, None, None] * torch.eye(9, device=A.device)
            b = weighted.transpose(1, 2) @ target[..., channel, None]
            shapes.append(even + torch.linalg.solve(A, b)[..., 0])
        return InitialLight(exposure, torch.stack(shapes, dim=2))

    def inputs(
        self, image: UInt8[Tensor, "b h w 3"], labels: UInt8[Tensor, "b h w"], fit: CropFit
    ) -> tuple[FaceInputs, InitialLight]:
        """Returns what the network is shown, and the light that its corrections start from.

        Args:
            image: crops, sRGB.
            labels: their label maps.
            fit: fits, after the cascade.
        """
        camera = fit.camera
        verts = self.model.verts(fit.identity, fit.expression)
        normals = vertex_normals(verts, self.model.faces)
        at = camera.project(verts) * 2 - 1
        picture = _layers(image, labels)
        seen = sample_at(picture, at)
        in_sight = seen_from_camera(verts, normals, camera)
        color = srgb_to_linear(seen[..., :3])
        light = self.first_light(color, normals, _clear(seen, at, _SKIN) * in_sight.clamp(min=0))
        shading = (self.transfer(normals) @ light.shape).clamp(min=_MIN_SHADING)
        relative = color / light.exposure[:, None]
        ratio = ((relative + 0.02) / (shading * self.mean_albedo + 0.02)).log()
        vertex_features = torch.cat(
            [
                seen[..., :3] * 2 - 1,
                relative - 0.4,
                ratio,
                shading - 1,
                seen[..., 3:],
                in_sight[..., None],
                normals @ camera.R.transpose(1, 2),
                normals,
                at,
            ],
            dim=2,
        )
        return FaceInputs(picture, at, vertex_features, self._fit_features(fit, light)), light

    def _fit_features(self, fit: CropFit, light: InitialLight) -> Float[Tensor, "b g"]:
        camera, b = fit.camera, len(fit.identity)
        upright = camera.R.new_tensor(FRONTAL).T @ camera.R
        depth = camera.T[:, 2].clamp(min=1.0)
        per_mm = camera.focal_px / depth  # crops' sides a millimetre
        origin = camera.T[:, :2] / depth[:, None] * camera.focal_px[:, None] + camera.principal_px
        residual = torch.nan_to_num(fit.landmarks - fit.fitted)
        return torch.cat(
            [
                upright.flatten(1),
                (per_mm * 220.0).log()[:, None],
                (depth / _TYPICAL_DEPTH_MM).log()[:, None],
                origin * 2 - 1,
                residual.norm(dim=2).mean(1, keepdim=True) * 50.0,
                fit.identity,
                fit.expression,
                (fit.landmarks * 2 - 1).reshape(b, -1),
                residual.reshape(b, -1) * 50.0,
                light.shape.flatten(1) - 1,
            ],
            dim=1,
        )

    def run_cascade(
        self,
        image: UInt8[Tensor, "b h w 3"],
        labels: UInt8[Tensor, "b h w"],
        fit: CropFit,
        photographs: Bool[Tensor, " b"] | None = None,
    ) -> CascadeOutput:
        """Returns the landmark fits after the cascade, which is where the network starts.

        A picture's strangeness tells how far to trust what synthetic faces taught: the closing step, whose penalty is
        weak, is taken the less the stranger it is, and its identity is shrunk towards the mean face.

        Args:
            image: crops, sRGB.
            labels: their label maps.
            fit: landmark fits.
            photographs: rows whose identity is shrunk towards the mean face; all by default. Training leaves
                synthetic faces out: it would learn to undo it.
        """
        maps = descriptor_maps(image, labels)
        fit, features = self.cascade(maps, fit, self.model)
        strange, looks = self.strangeness(features)
        fit, _ = self.gated_step(maps, fit, self.model, (1 - strange).clamp(min=0))
        kept = self.strangeness.shrinkage(strange)
        if photographs is not None:
            kept = torch.where(photographs[:, None], kept, 1.0)
        identity = fit.identity * kept
        marks = self.model.verts(identity, fit.expression)[:, self.model.landmark_verts]
        return CascadeOutput(
            camera=fit.camera,
            identity=identity,
            expression=fit.expression,
            landmarks=fit.landmarks,
            fitted=fit.camera.project(marks),
            appearance_features=looks,
        )

    def estimate(
        self, network: Network, image: UInt8[Tensor, "b h w 3"], labels: UInt8[Tensor, "b h w"], fit: CropFit
    ) -> CropEstimate:
        """Returns what cascade and network make of landmark fits."""
        fit = self.run_cascade(image, labels, fit)
        inputs, light = self.inputs(image, labels, fit)
        return self.apply(network(inputs), inputs, fit, light)

    def apply(
        self, corrections: FaceCorrections, inputs: FaceInputs, fit: CascadeOutput, light: InitialLight
    ) -> CropEstimate:
        """Returns the corrected faces; with corrections of zero the fit, the average albedo and the first light.

        Args:
            corrections: the network's answer.
            inputs: what it was shown.
            fit: fits, after the cascade.
            light: the light that the corrections start from.
        """
        camera = fit.camera
        depth = camera.T[:, 2:]
        moved = torch.cat([corrections.shift * depth / camera.focal_px[:, None], torch.zeros_like(depth)], dim=1)
        T = (camera.T + moved) * corrections.log_depth.exp()[:, None]
        R = rotation_from_vector(corrections.turn) @ camera.R
        identity = fit.identity + corrections.identity
        low, high = self.model.expression_bounds.unbind(1)
        expression = fit.expression + corrections.expression
        # Coefficients stay within their bounds and still learn to come back from them.
        expression = expression + (expression.clamp(low, high) - expression).detach()
        verts = self.model.verts(identity, expression) + corrections.offsets_mm
        return CropEstimate(
            camera=Camera(R, T, camera.focal_px, camera.principal_px),
            identity=identity,
            expression=expression,
            offsets_mm=corrections.offsets_mm,
            verts_mm=verts,
            albedo=self.mean_albedo * corrections.log_albedo.exp(),
            light_sh=light.exposure[:, None] * (light.shape + corrections.light),
            sigma_mm=self.average_sigma * (corrections.log_sigma + self.trend(trend_features(inputs, fit))).exp(),
            strangeness=fit.appearance_features[:, 0]
            if fit.appearance_features.shape[1]
            else fit.appearance_features.new_full((len(fit.appearance_features),), torch.nan),
        )

    def seen_albedo(
        self,
        estimate: CropEstimate,
        image: UInt8[Tensor, "b h w 3"],
        labels: UInt8[Tensor, "b h w"],
        share: float,
    ) -> Float[Tensor, "b v 3"]:
        """Returns the albedo moved towards the picture's colours divided by the shading, where the bare face is seen.

        Args:
            estimate: faces in the crops' space.
            image: crops, sRGB.
            labels: their label maps.
            share: how far, 0 to 1, between the logarithms; less towards edges that the camera sees from the side.
        """
        verts, camera = estimate.verts_mm, estimate.camera
        normals = vertex_normals(verts, self.model.faces)
        at = camera.project(verts) * 2 - 1
        seen = sample_at(_layers(image, labels), at)
        shading = (self.transfer(normals) @ estimate.light_sh).clamp(min=_MIN_SHADING)
        wanted = (srgb_to_linear(seen[..., :3]) / shading).clamp(_MIN_ALBEDO, 1.0)
        facing = ((seen_from_camera(verts, normals, camera) - 0.1) / 0.3).clamp(0, 1)
        weight = share * facing * _clear(seen, at, _BARE)
        albedo = estimate.albedo.clamp(min=_MIN_ALBEDO)
        return (albedo.log() + weight[..., None] * (wanted.log() - albedo.log())).exp()


def trend_features(inputs: FaceInputs, fit: CascadeOutput) -> Float[Tensor, "b g"]:
    """Returns what a `LogErrorModel` looks at: the fits, and what their pictures look like."""
    return torch.cat([inputs.fit_features, fit.appearance_features], dim=1)


def _layers(image: UInt8[Tensor, "b h w 3"], labels: UInt8[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
    """Returns the picture, sRGB in 0..1, and behind it a channel for each label."""
    rgb = image.permute(0, 3, 1, 2).float() / 255
    one_hot = functional.one_hot(labels.long(), len(Label)).permute(0, 3, 1, 2).float()
    return torch.cat([rgb, one_hot], dim=1).contiguous(memory_format=torch.channels_last)


def _clear(
    seen: Float[Tensor, "b v c"], at: Float[Tensor, "b v 2"], wanted: tuple[Label, ...]
) -> Float[Tensor, "b v"]:
    """Returns how far places of the layers show the wanted labels; 0 outside the crop and where it is burnt out."""
    inside = (at.abs().amax(2) < 1) & (seen[..., :3].amax(2) < 0.98)
    return seen[..., [3 + int(label) for label in wanted]].sum(2) * inside


def seen_from_camera(
    verts: Float[Tensor, "b v 3"], normals: Float[Tensor, "b v 3"], camera: Camera
) -> Float[Tensor, "b v"]:
    """Returns the cosine between each normal and the direction towards the camera; negative where it looks away."""
    towards = functional.normalize(-camera.to_camera(verts), dim=2)
    return ((normals @ camera.R.transpose(1, 2)) * towards).sum(2)
