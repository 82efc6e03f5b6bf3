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

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from raylib.config import FitSettings
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import SlidingLandmarks
from raylib.geometry.camera import Camera
from raylib.geometry.mesh import vertex_adjacency
from raylib.geometry.topology import Topology
from raylib.geometry.visibility import visible_directions
from raylib.lighting.color import srgb_to_linear
from raylib.lighting.estimation import MIN_SHADING, white_light
from raylib.lighting.spherical_harmonics import shadowed_transfer, sphere_directions
from raylib.morphable.model import REGIONS, LinearFaceModel
from raylib.refinement.objective import MAX_ALBEDO, MIN_ALBEDO, Problem, Rates, Weights
from raylib.render import SoftRenderer, SoftSettings, fast_vertex_normals
from raylib.segmentation.labels import Label, brow_band, face_mask

_SHADOW_DIRECTIONS = 128
_SPREADING = 300  # steps by which albedo spreads over vertices that are not seen, an edge each


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
        self.topology = Topology(model.faces, len(model.mean))
        self._neighbours = vertex_adjacency(model.faces, len(model.mean)).to(model.mean.device)
        self._directions = sphere_directions(_SHADOW_DIRECTIONS).to(model.mean.device)
        self.mirror = model.mirror_verts
        self.skin = None if model.regions is None else (model.regions == REGIONS.index("skin")).nonzero()[:, 0]
        self.landmarks = SlidingLandmarks(model)

    def __call__(self, faces: FaceBatch, estimates: FaceEstimates, steps: int) -> Refinement:
        """Returns the faces after `steps` steps; with 0 steps first guesses of albedo and light are made at least."""
        target, weight = self._target(faces)
        camera = faces.crop_camera(estimates.camera, self.size)
        start = self._with_appearance(estimates, camera, target, weight)
        problem = Problem(self, faces, start, camera, target, weight)
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
        problem = Problem(self, faces, start, camera, target, weight)
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
            light = white_light(transfer, color, seen)
            shading = (transfer @ light[..., None])[..., 0].clamp(min=MIN_SHADING)
            raw = (color / shading[..., None]).clamp(MIN_ALBEDO, MAX_ALBEDO)
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
        if self.mirror is not None:
            across = known[:, self.mirror] * (1 - known)
            albedo = albedo + across * albedo[:, self.mirror]
            known = known + across
        mean = albedo.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1)
        columns = (albedo + (1 - known) * mean).transpose(0, 1).flatten(1)  # (v, 3 b), as the sparse product wants it
        fixed, free = albedo.transpose(0, 1).flatten(1), (1 - known).expand_as(albedo).transpose(0, 1).flatten(1)
        for _ in range(_SPREADING):
            columns = fixed + free * (self._neighbours @ columns) / self.topology.degree[:, None]
        return columns.unflatten(1, (len(albedo), 3)).transpose(0, 1)
