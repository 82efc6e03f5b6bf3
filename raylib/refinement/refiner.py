"""Refining estimated faces by rendering: pose, shape, albedo and light that together explain the photograph.

Analysis by synthesis: the estimate is rendered with its light and self-shadow over the aligned crop, and all its
parameters follow the gradient of what differs, held by the priors of shape, skin and light. A face without albedo and
light gets first guesses from the photograph: light by least squares on the colours of the vertices, albedo as what
remains.

Per face, with c identity, e expression, a albedo, L light, minimised by Adam:

    sum over bare skin of charbonnier(srgb(render) - srgb(crop))  +  landmarks under Huber's loss
    + |c - c0|^2 + |e - e0|^2: the estimate already weighs the landmarks against the model's priors
    + smoothness, evenness and mirror symmetry of log a, closeness of its hue to the estimate's
    + closeness of L's hue to the estimate's
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from raylib.config import FitSettings
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import OUTER_EYE, SlidingLandmarks
from raylib.geometry.camera import Camera, rotation_from_vector
from raylib.geometry.mesh import vertex_adjacency
from raylib.geometry.visibility import visible_directions
from raylib.lighting.color import linear_to_srgb, srgb_to_linear
from raylib.lighting.spherical_harmonics import N_SH, SphericalHarmonicLight, shadowed_transfer, sphere_directions
from raylib.morphable.model import REGIONS, LinearFaceModel
from raylib.paper.losses import Topology
from raylib.render import SoftRenderer, SoftSettings, fast_vertex_normals
from raylib.segmentation.segmenter import Label, brow_band, face_mask

_SHADOW_DIRECTIONS = 128
_SHADOW_EVERY = 15  # steps after which the shape has moved so far that shadows are cast anew
_EPSILON = 0.02  # differences of sRGB below this count quadratically, above linearly
_LEAST_ALBEDO, _MOST_ALBEDO = 0.005, 0.95
_LEAST_SHADING = 0.08  # what a first guess of the light leaves at least: deeper shadows tell nothing of the albedo
_SPREADING = 300  # steps by which albedo spreads over vertices that are not seen, an edge each


@dataclass(frozen=True)
class Rates:
    """Adam's step a parameter, in the unit of the parameter.

    Attributes:
        turn: radians.
        shift: pixels of the crop.
        depth: share of the distance.
        identity: standard deviations.
        expression: of the coefficient's range.
        log_albedo: natural logarithm of the albedo.
        light: share of the mean radiance.
    """

    turn: float = 0.004
    shift: float = 0.15
    depth: float = 0.002
    identity: float = 0.05
    expression: float = 0.02
    log_albedo: float = 0.04
    light: float = 0.03


@dataclass(frozen=True)
class Weights:
    """Weights of the terms beside the photometric one, which is the mean over the face's pixels.

    Attributes:
        landmarks: of the mean over the landmarks, in squared standard deviations.
        identity, expression: of what moves from the estimate, squared standard deviations. A photograph tells little
            of the shape that a loose identity would not rather use for landmarks out of place.
        smooth: of differences of log albedo along edges.
        symmetry: of differences of log albedo between mirrored vertices.
        even: of differences of the skin's log albedo from its mean: what light can explain is light.
        hue: of what colours albedo and light beyond the estimate.
    """

    landmarks: float = 0.02
    identity: float = 0.03
    expression: float = 3e-3
    smooth: float = 0.02
    symmetry: float = 0.04
    even: float = 0.04
    hue: float = 0.05


@dataclass(frozen=True)
class Refinement:
    """Refined faces and what refining them changed.

    Attributes:
        estimates: the refined faces.
        transfer: self-shadow of their vertices (see `lighting`): times `light_sh` it is their shading.
        psnr: of the rendering inside the bare face, sRGB, dB, after all steps.
        psnr_before: the same before the first.
        error_iod_before: landmark error before the first step, see `FaceEstimates`.
    """

    estimates: FaceEstimates
    transfer: Float[Tensor, "b v 9"]
    psnr: Float[Tensor, " b"]
    psnr_before: Float[Tensor, " b"]
    error_iod_before: Float[Tensor, " b"]


class Refiner:
    """Refines batches of faces of one model; keeps what depends on the model alone.

    Args:
        model: gives topology, modes and landmarks; its device is where the work is done.
        fit: noise of landmarks and priors of the landmark fit.
        size: side in pixels at which crops are compared.
        rates, weights: steps and weights of the terms.
    """

    def __init__(
        self,
        model: LinearFaceModel,
        fit: FitSettings,
        size: int = 128,
        rates: Rates | None = None,
        weights: Weights | None = None,
    ):
        self.model, self.fit, self.size = model, fit, size
        self.rates, self.weights = rates or Rates(), weights or Weights()
        self.renderer = SoftRenderer(model.faces, SoftSettings(image_size=(size, size)))
        self._topology = Topology(model.faces, len(model.mean))
        self._neighbours = vertex_adjacency(model.faces, len(model.mean)).to(model.mean.device)
        self._directions = sphere_directions(_SHADOW_DIRECTIONS).to(model.mean.device)
        self._mirror = model.mirror_verts
        self._skin = None if model.regions is None else (model.regions == REGIONS.index("skin")).nonzero()[:, 0]
        self.landmarks = SlidingLandmarks(model)

    def __call__(self, faces: FaceBatch, estimates: FaceEstimates, steps: int) -> Refinement:
        """Returns the faces after `steps` steps; with 0 steps first guesses of albedo and light are made at least."""
        target, weight = self._target(faces)
        camera = faces.crop_camera(estimates.camera, self.size)
        start = self._with_appearance(estimates, camera, target, weight)
        problem = _Problem(self, faces, start, camera, target, weight)
        after, transfer = start, self._transfer(start)
        psnr = psnr_before = problem.psnr(transfer)
        if steps:
            for step in range(steps):
                problem.step(step)
            after = problem.estimates()
            transfer = self._transfer(after)
            psnr = problem.psnr(transfer)
        return Refinement(after, transfer, psnr, psnr_before, estimates.error_iod)

    def pictures(
        self, faces: FaceBatch, estimates: FaceEstimates
    ) -> tuple[Float[Tensor, "b s s 3"], Float[Tensor, "b s s 3"], Float[Tensor, "b s s"]]:
        """Returns renderings over the crops and the crops, sRGB 0..1, and how much of each pixel is compared."""
        target, weight = self._target(faces)
        camera = faces.crop_camera(estimates.camera, self.size)
        start = self._with_appearance(estimates, camera, target, weight)
        problem = _Problem(self, faces, start, camera, target, weight)
        picture, weight = problem.picture(self._transfer(start))
        return picture, target, weight

    @torch.no_grad()
    def _transfer(self, estimates: FaceEstimates) -> Float[Tensor, "b v 9"]:
        return self.shadowed(estimates.verts_mm)[0]

    def _target(self, faces: FaceBatch) -> tuple[Float[Tensor, "b s s 3"], Float[Tensor, "b s s"]]:
        """Returns the crops at the size of the comparison, sRGB 0..1, and how much of each pixel is bare face."""
        device = self.model.mean.device
        crops = torch.from_numpy(faces.crops).to(device).permute(0, 3, 1, 2).float() / 255
        if faces.labels is None:
            bare = np.ones(faces.crops.shape[:3], bool)
        else:
            bare = face_mask(faces.labels)
            points = faces.landmarks_in_crop(faces.crops.shape[1]).cpu().numpy()
            for i, labels in enumerate(faces.labels):
                bare[i] |= (labels == Label.HAIR) & brow_band(points[i], labels.shape)
        mask = torch.from_numpy(bare).to(device).float()[:, None]
        side = (self.size, self.size)
        small = interpolate(crops, side, mode="bilinear", antialias=True, align_corners=False)
        share = interpolate(mask, side, mode="bilinear", antialias=True, align_corners=False)[:, 0]
        # Pixels that mix the face with something else would colour its rim, and outlines of hair are never exact.
        inner = -max_pool2d(-share[:, None], 5, stride=1, padding=2)[:, 0]
        return small.permute(0, 2, 3, 1).contiguous(), (inner * 2 - 1).clamp(min=0)

    def shadowed(
        self, verts: Float[Tensor, "b v 3"], visible: Bool[Tensor, "b v s"] | None = None
    ) -> tuple[Float[Tensor, "b v 9"], Bool[Tensor, "b v s"]]:
        """Returns the transfer coefficients of vertices, and what each of them sees (given, or cast anew)."""
        normals = fast_vertex_normals(verts, self.model.faces)
        if visible is None:
            with torch.no_grad():
                visible = visible_directions(verts, normals, self.model.faces, self._directions)
        return shadowed_transfer(normals, visible, self._directions), visible

    def _with_appearance(
        self, estimates: FaceEstimates, camera: Camera, target: Tensor, weight: Tensor
    ) -> FaceEstimates:
        """Returns the estimates with albedo and light: their own, or first guesses from the colours of the crop."""
        if estimates.albedo is not None and estimates.light_sh is not None:
            return estimates
        with torch.no_grad():
            verts = estimates.verts_mm
            color, seen = self._colors_at_verts(verts, camera, target, weight)
            transfer, _ = self.shadowed(verts)
            light = _white_light(transfer, color, seen)
            shading = (transfer @ light[..., None])[..., 0].clamp(min=_LEAST_SHADING)
            raw = (color / shading[..., None]).clamp(_LEAST_ALBEDO, _MOST_ALBEDO)
            albedo = self._completed(raw, seen)
            return replace(estimates, albedo=albedo, light_sh=light[..., None].expand(-1, -1, 3).contiguous())

    def _colors_at_verts(
        self, verts: Tensor, camera: Camera, target: Tensor, weight: Tensor
    ) -> tuple[Float[Tensor, "b v 3"], Float[Tensor, "b v"]]:
        """Returns linear colours of the crop at the vertices, and how well each is seen there."""
        pixels = camera.project(verts)
        at = (pixels / self.size * 2 - 1)[:, None]
        layers = torch.cat([srgb_to_linear(target), weight[..., None]], dim=3).permute(0, 3, 1, 2)
        sampled = torch.nn.functional.grid_sample(layers, at, padding_mode="zeros", align_corners=False)
        sampled = sampled[:, :, 0].transpose(1, 2)
        normals = fast_vertex_normals(verts, self.model.faces)
        eye = -(camera.R.transpose(1, 2) @ camera.T[:, :, None])[..., 0]
        view = torch.nn.functional.normalize(eye[:, None] - verts, dim=-1)
        facing = ((normals * view).sum(-1) - 0.15).clamp(min=0) / 0.35
        return sampled[..., :3], sampled[..., 3] * facing.clamp(max=1)

    def _completed(self, albedo: Float[Tensor, "b v 3"], seen: Float[Tensor, "b v"]) -> Float[Tensor, "b v 3"]:
        """Returns albedo with what is not seen taken from the mirrored side, or spread from its surroundings."""
        known = (seen > 0.5).float()[..., None]
        albedo = known * albedo
        if self._mirror is not None:
            across = known[:, self._mirror] * (1 - known)
            albedo = albedo + across * albedo[:, self._mirror]
            known = known + across
        mean = albedo.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
        columns = (albedo + (1 - known) * mean).transpose(0, 1).flatten(1)  # (v, 3 b), as the sparse product wants it
        fixed, free = albedo.transpose(0, 1).flatten(1), (1 - known).expand_as(albedo).transpose(0, 1).flatten(1)
        for _ in range(_SPREADING):
            columns = fixed + free * (self._neighbours @ columns) / self._topology.degree[:, None]
        return columns.unflatten(1, (len(albedo), 3)).transpose(0, 1)


def _white_light(
    transfer: Float[Tensor, "b v 9"], color: Float[Tensor, "b v 3"], seen: Float[Tensor, "b v"]
) -> Float[Tensor, "b 9"]:
    """Returns the white light that explains the brightness of a face of one albedo; its mean shading is one.

    How bright the light is and how dark the skin cannot be told apart in one picture. Cameras expose faces so that
    the mean shading is near one; deviations are for a trained network to know.
    """
    grey = color.mean(-1)
    mean = (grey * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1e-6)
    wanted = (grey / mean.clamp(min=1e-4)).clamp(max=4)
    weight = seen.clone()
    ridge = torch.full((N_SH,), 0.02, device=color.device)
    ridge[0] = 1e-4
    for _ in range(4):  # reweighted: lips, brows and pupils are outliers of one albedo
        scaled = transfer * weight[..., None]
        total = weight.sum(1)[:, None, None].clamp(min=1e-6)
        normal = scaled.transpose(1, 2) @ transfer / total + torch.diag(ridge)
        light = torch.linalg.solve(normal, (scaled * wanted[..., None]).sum(1) / total[..., 0])
        off = (wanted - (transfer @ light[..., None])[..., 0]).abs()
        weight = seen * (0.1 / off.clamp(min=0.1))
    shading = (transfer @ light[..., None])[..., 0].clamp(min=_LEAST_SHADING)
    return light / ((shading * seen).sum(1) / seen.sum(1).clamp(min=1e-6)).clamp(min=0.1)[:, None]


class _Problem:
    """The parameters of a batch while they are refined, all in the cameras of the crops."""

    def __init__(
        self,
        refiner: Refiner,
        faces: FaceBatch,
        start: FaceEstimates,
        camera: Camera,
        target: Float[Tensor, "b s s 3"],
        weight: Float[Tensor, "b s s"],
    ):
        self.refiner, self.start, self.camera = refiner, start, camera
        self.target, self.weight = target, weight
        model, rates = refiner.model, refiner.rates
        assert start.albedo is not None and start.light_sh is not None
        self.log_albedo = start.albedo.clamp(_LEAST_ALBEDO, _MOST_ALBEDO).log()
        self.light = start.light_sh
        self.brightness = start.light_sh[:, 0].mean(1).abs().clamp(min=0.1)[:, None, None]
        # What the estimate has beyond its coefficients, such as a network's offsets, stays as it is.
        self.beyond = start.verts_mm - model.verts(start.identity, start.expression)
        self.given_px = faces.landmarks_in_crop(refiner.size)
        self.given_in_photo = faces.landmarks_px
        # Every parameter is a multiple of its rate, so that Adam steps alike in all of them.
        b, device = len(faces), camera.R.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(b, *shape, device=device, requires_grad=True)

        self.moves = {
            "turn": zeros(3),
            "shift": zeros(2),
            "depth": zeros(1),
            "identity": zeros(start.identity.shape[1]),
            "expression": zeros(start.expression.shape[1]),
            "log_albedo": zeros(*self.log_albedo.shape[1:]),
            "light": zeros(N_SH, 3),
        }
        self.scale = {name: getattr(rates, name) for name in self.moves}
        self.visible: Tensor | None = None
        self.points: Tensor | None = None

    @cached_property
    def _adam(self) -> torch.optim.Adam:
        """Made with the first step: a process's first optimiser imports torch's compiler, which takes seconds."""
        return torch.optim.Adam(self.moves.values(), lr=1.0, betas=(0.9, 0.98))

    def _move(self, name: str) -> Tensor:
        return self.moves[name] * self.scale[name]

    def _pose(self) -> Camera:
        camera = self.camera
        depth = camera.T[:, 2:] * torch.exp(self._move("depth"))
        # A shift in pixels, and the same place in the image at another depth.
        across = camera.T[:, :2] / camera.T[:, 2:] + self._move("shift") / camera.focal_px[:, None]
        R = rotation_from_vector(self._move("turn")) @ camera.R
        return Camera(R, torch.cat([across * depth, depth], dim=1), camera.focal_px, camera.principal_px)

    def _shape(self) -> tuple[Tensor, Tensor, Tensor]:
        model = self.refiner.model
        identity = self.start.identity + self._move("identity")
        expression = self.start.expression + self._move("expression")
        if expression.shape[1]:
            low, high = model.expression_bounds.unbind(1)
            expression = torch.maximum(torch.minimum(expression, high), low)
        return identity, expression, model.verts(identity, expression) + self.beyond

    def _appearance(self) -> tuple[Tensor, Tensor]:
        albedo = (self.log_albedo + self._move("log_albedo")).exp().clamp(max=_MOST_ALBEDO)
        return albedo, self.light + self._move("light") * self.brightness

    def _render(self, verts: Tensor, camera: Camera, transfer: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rendering in sRGB and the weight of each pixel."""
        albedo, light = self._appearance()
        picture = self.refiner.renderer(verts, camera, SphericalHarmonicLight(light), albedo, transfer=transfer)
        return linear_to_srgb(picture.image), self.weight * (picture.alpha.detach() > 0.99)

    @torch.no_grad()
    def picture(self, transfer: Float[Tensor, "b v 9"]) -> tuple[Float[Tensor, "b s s 3"], Float[Tensor, "b s s"]]:
        """Returns the present rendering in sRGB 0..1, with its own shadows, and the weight of each pixel."""
        _, _, verts = self._shape()
        picture, weight = self._render(verts, self._pose(), transfer)
        return picture.clamp(0, 1), weight

    def psnr(self, transfer: Float[Tensor, "b v 9"]) -> Float[Tensor, " b"]:
        """Returns the fidelity of the present rendering inside the bare face, dB."""
        picture, weight = self.picture(transfer)
        error = ((picture - self.target).square().mean(-1) * weight).sum((1, 2))
        return -10 * torch.log10((error / weight.sum((1, 2)).clamp(min=1)).clamp(min=1e-10))

    def step(self, number: int) -> None:
        """Moves every parameter once."""
        camera = self._pose()
        identity, expression, verts = self._shape()
        if number % _SHADOW_EVERY == 0:
            self.visible = None
            with torch.no_grad():
                self.points = self.refiner.landmarks.nearest(verts, camera, self.given_px)
        transfer, self.visible = self.refiner.shadowed(verts, self.visible)
        picture, weight = self._render(verts, camera, transfer)
        off = (picture - self.target).square() + _EPSILON**2
        photometric = ((off.sqrt() - _EPSILON).mean(-1) * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        w = self.refiner.weights
        loss = photometric + w.landmarks * self._landmarks(verts, camera) + self._priors(identity, expression)
        self._adam.zero_grad(set_to_none=True)
        loss.sum().backward()
        self._adam.step()

    def _landmarks(self, verts: Tensor, camera: Camera) -> Float[Tensor, " b"]:
        """Returns Huber's loss of the landmarks in standard deviations, as the landmark fit weighs them."""
        assert self.points is not None
        fit = self.refiner.fit
        known = self.points >= 0
        chosen = verts.gather(1, self.points.clamp(min=0)[..., None].expand(-1, -1, 3))
        millimetres = camera.T[:, 2] / camera.focal_px  # of a pixel at the face's distance
        off = (camera.project(chosen) - self.given_px).norm(dim=2) * millimetres[:, None]
        sigmas = off / fit.landmark_sigma_mm
        far = fit.outlier_sigmas
        huber = torch.where(sigmas < far, sigmas**2, far * (2 * sigmas - far))
        return (huber * known).sum(1) / known.sum(1).clamp(min=1)

    def _priors(self, identity: Tensor, expression: Tensor) -> Float[Tensor, " b"]:
        """Returns the priors of shape, albedo and light."""
        refiner, w = self.refiner, self.refiner.weights
        moved = (expression - self.start.expression) / refiner.fit.expression_scale
        total = w.identity * (identity - self.start.identity).square().sum(1) + w.expression * moved.square().sum(1)
        log_albedo = self.log_albedo + self._move("log_albedo")
        ends = log_albedo[:, refiner._topology.edges]
        along = ((ends[:, :, 0] - ends[:, :, 1]).square() + 1e-4).sqrt().mean((1, 2))
        total = total + w.smooth * along
        if refiner._mirror is not None:
            across = ((log_albedo - log_albedo[:, refiner._mirror]).square() + 1e-4).sqrt().mean((1, 2))
            total = total + w.symmetry * across
        skin = log_albedo if refiner._skin is None else log_albedo[:, refiner._skin]
        uneven = ((skin - skin.mean(1, keepdim=True)).square() + 1e-4).sqrt().mean((1, 2))
        total = total + w.even * uneven
        change = self._move("log_albedo").mean(1)
        tint = self._move("light") - self._move("light").mean(2, keepdim=True)
        hue = (change - change.mean(1, keepdim=True)).square().sum(1) + tint.square().sum((1, 2))
        return total + w.hue * (hue + change.mean(1).square())

    def estimates(self) -> FaceEstimates:
        """Returns the refined faces in the cameras of their photographs."""
        with torch.no_grad():
            seen = self._pose()
            identity, expression, verts = self._shape()
            albedo, light = self._appearance()
            points = self.refiner.landmarks.nearest(verts, seen, self.given_px)
            chosen = verts.gather(1, points.clamp(min=0)[..., None].expand(-1, -1, 3))
            # The crop's camera turned back: the same turn and shift of pose in the photograph's.
            start = self.start.camera
            back = start.R @ self.camera.R.transpose(1, 2)
            camera = Camera(back @ seen.R, (back @ seen.T[..., None])[..., 0], start.focal_px, start.principal_px)
            projected = camera.project(chosen).masked_fill((points < 0)[..., None], torch.nan)
            given = self.given_in_photo
            error = (projected - given).norm(dim=2).nanmean(1)
            between_eyes = (given[:, OUTER_EYE[0]] - given[:, OUTER_EYE[1]]).norm(dim=1)
            return replace(
                self.start,
                camera=camera,
                verts_mm=verts,
                identity=identity,
                expression=expression,
                landmarks_px=projected,
                error_px=error,
                error_iod=error / between_eyes,
                albedo=albedo,
                light_sh=light,
            )
