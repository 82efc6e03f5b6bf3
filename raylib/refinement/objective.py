"""What refinement minimises: the parameters of a batch, its terms and their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raylib.config import FitSettings
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import OUTER_EYE, SlidingLandmarks
from raylib.geometry.camera import Camera, rotation_from_vector
from raylib.geometry.topology import Topology
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import N_SH
from raylib.morphable.model import LinearFaceModel
from raylib.render import SoftRenderer

_SHADOW_EVERY = 15  # steps after which the shape has moved so far that shadows are cast anew
_EPSILON = 0.02  # differences of sRGB below this count quadratically, above linearly
MIN_ALBEDO, MAX_ALBEDO = 0.005, 0.95


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


class Setting(Protocol):
    """What all batches of a refiner share: the model, its renderer, and how the terms are weighed.

    Attributes:
        model: gives topology, modes and landmarks.
        fit: noise of landmarks and priors of the landmark fit.
        size: side in pixels at which crops are compared.
        rates, weights: steps and weights of the terms.
        renderer: draws the model's mesh at that size.
        landmarks: the model's landmarks.
        topology: edges of the mesh.
        mirror: the vertex across the plane of symmetry of each vertex, if the model says it.
        skin: the vertices of the skin, if the model says it.
    """

    model: LinearFaceModel
    fit: FitSettings
    size: int
    rates: Rates
    weights: Weights
    renderer: SoftRenderer
    landmarks: SlidingLandmarks
    topology: Topology
    mirror: Int[Tensor, " v"] | None
    skin: Int[Tensor, " s"] | None

    def shadowed(
        self, verts: Float[Tensor, "b v 3"], visible: Bool[Tensor, "b v s"] | None = None
    ) -> tuple[Float[Tensor, "b v 9"], Bool[Tensor, "b v s"]]:
        """Returns the transfer coefficients of vertices, and what each of them sees (given, or cast anew)."""


class Problem:
    """The parameters of a batch while they are refined, all in the cameras of the crops."""

    def __init__(
        self,
        refiner: Setting,
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
        self.log_albedo = start.albedo.clamp(MIN_ALBEDO, MAX_ALBEDO).log()
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
        albedo = (self.log_albedo + self._move("log_albedo")).exp().clamp(max=MAX_ALBEDO)
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
        ends = log_albedo[:, refiner.topology.edges]
        along = ((ends[:, :, 0] - ends[:, :, 1]).square() + 1e-4).sqrt().mean((1, 2))
        total = total + w.smooth * along
        if refiner.mirror is not None:
            across = ((log_albedo - log_albedo[:, refiner.mirror]).square() + 1e-4).sqrt().mean((1, 2))
            total = total + w.symmetry * across
        skin = log_albedo if refiner.skin is None else log_albedo[:, refiner.skin]
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
