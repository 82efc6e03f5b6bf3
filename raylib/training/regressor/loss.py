"""What corrected faces are measured by: against the truth of synthetic faces, and against photographs themselves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from raylib.config import FaceLossWeights
from raylib.geometry.camera import Camera
from raylib.geometry.landmarks68 import NOSE_TIP
from raylib.geometry.mesh import vertex_normals
from raylib.geometry.topology import Topology
from raylib.lighting.color import linear_to_srgb
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.metrics.scan_error import FACE_RADIUS_MM
from raylib.morphable.model import REGIONS, LinearFaceModel
from raylib.regressor.corrections import CropEstimate, RegressorGeometry
from raylib.regressor.network import FaceCorrections
from raylib.render import RenderedImage, SoftRenderer, SoftSettings
from raylib.segmentation.labels import Label
from raylib.training.regressor.samples import FaceSampleBatch, FaceTruth

_FIRST_INNER = 17  # landmarks 0..16 slide along the jaw
_MIN = 0.02  # of albedo and shading, under their logarithms


def vertex_weights(model: LinearFaceModel) -> Float[Tensor, " v"]:
    """Returns how much each vertex counts, 1 on average: the face that a scan shows, less the inside of the mouth."""
    weights = torch.ones(len(model.mean), device=model.mean.device)
    tip = model.mean[model.landmark_verts[NOSE_TIP]]
    weights[(model.mean - tip).norm(dim=1) > FACE_RADIUS_MM] = 0.3
    if model.regions is not None:
        weights[model.regions == REGIONS.index("inner_mouth")] = 0.1
        weights[model.regions == REGIONS.index("eye")] *= 0.5
    return weights / weights.mean()


def aligned_error(
    verts: Float[Tensor, "b v 3"], truth: Float[Tensor, "b v 3"], weights: Float[Tensor, " v"]
) -> tuple[Float[Tensor, "b v 3"], Float[Tensor, " b"]]:
    """Returns how far vertices are from the truth without position and size, which one picture does not show.

    Returns:
        The displacements in millimetres of the truth, and the factor by which the vertices had to be enlarged.
    """
    w = (weights / weights.sum())[:, None]
    moved, fixed = verts - (w * verts).sum(1, keepdim=True), truth - (w * truth).sum(1, keepdim=True)
    scale = (w * moved * fixed).sum((1, 2)) / (w * moved * moved).sum((1, 2))
    return scale[:, None, None] * moved - fixed, scale


def rotation_distance_deg(a: Float[Tensor, "b 3 3"], b: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    """Returns the angle between rotations in degrees, smooth and for small angles exact: the chord of the sphere."""
    chord = ((a - b).square().sum((1, 2)) + 1e-10).sqrt()
    return torch.rad2deg(chord / 2**0.5)


class FaceLoss:
    """The weighted sum of all terms; holds what depends on the model alone.

    Args:
        corrector: face model and average albedo.
        weights: of the terms.
        render_px: side of the rendered crops.
    """

    def __init__(self, corrector: RegressorGeometry, weights: FaceLossWeights, render_px: int):
        self.corrector, self.weights = corrector, weights
        model = corrector.model
        self.topology = Topology(model.faces, len(model.mean))
        self.vertex_weights = vertex_weights(model)
        self.mean_edges = self._edges(model.mean[None])[0]
        self.renderer = SoftRenderer(model.faces, SoftSettings((render_px, render_px)))
        self.render_px = render_px

    def __call__(
        self,
        estimate: CropEstimate,
        corrections: FaceCorrections,
        batch: FaceSampleBatch,
        lit: Bool[Tensor, " b"],
        first_stage: CropEstimate | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted sum as "loss", then the mean of each term without its weight and without a gradient.

        Args:
            estimate: corrected faces.
            corrections: that made them.
            batch: the samples.
            lit: rows whose colours are as the truth says, not changed by augmentation.
            first_stage: what another network makes of the same samples, for the term `keep`.
        """
        known = batch.truth.known > 0.5
        terms: dict[str, Tensor] = {}
        if bool(known.any()):
            terms |= self._supervised(_rows(estimate, known), _truth_rows(batch.truth, known), lit[known])
        photos = ~known
        if bool(photos.any()):
            # Terms that both kinds have add up.
            for name, value in self._self_supervised(_rows(estimate, photos), batch, photos).items():
                terms[name] = terms.get(name, 0.0) + value
            if first_stage is not None and self.weights.keep:
                kept = _rows(first_stage, photos).verts_mm
                error, _ = aligned_error(_rows(estimate, photos).verts_mm, kept, self.vertex_weights)
                terms["keep"] = (error.norm(dim=2) * self.vertex_weights).mean()
        moved = corrections.offsets_mm
        terms["offset_laplacian"] = (moved - self.topology.neighbor_mean(moved)).norm(dim=2).mean()
        terms["prior"] = corrections.identity.square().mean() + 4 * corrections.expression.square().mean()
        total = estimate.verts_mm.new_zeros(())
        for name, value in terms.items():
            weight = getattr(self.weights, name)
            if weight:
                total = total + weight * value
        return {"loss": total, **{name: value.detach() for name, value in terms.items()}}

    def _edges(self, verts: Float[Tensor, "b v 3"]) -> Float[Tensor, "b e"]:
        a, b = self.topology.edges.unbind(1)
        return (verts.index_select(1, a) - verts.index_select(1, b)).norm(dim=2)

    def _supervised(self, estimate: CropEstimate, truth: FaceTruth, lit: Tensor) -> dict[str, Tensor]:
        w = self.vertex_weights
        faces = self.corrector.model.faces
        error, scale = aligned_error(estimate.verts_mm, truth.verts_mm, w)
        normals, true_normals = vertex_normals(estimate.verts_mm, faces), vertex_normals(truth.verts_mm, faces)
        distance = (error.square().sum(2) + 1e-4).sqrt()
        true_edges = self._edges(truth.verts_mm).clamp(min=0.3)
        projected, true_projected = estimate.camera.project(estimate.verts_mm), truth.camera.project(truth.verts_mm)
        terms = {
            "vertex": (distance * w).mean(),
            "plane": ((error * true_normals).sum(2).abs() * w).mean(),
            "normal": (((normals - true_normals).square().sum(2) + 1e-6).sqrt() * w).mean(),
            "pose": rotation_distance_deg(estimate.camera.R, truth.camera.R).mean(),
            "projection": 100 * ((projected - true_projected).norm(dim=2).clamp(max=0.3) * w).mean(),
            "size": scale.log().abs().mean(),
            "edge": ((self._edges(estimate.verts_mm) - true_edges).abs() / true_edges).clamp(max=3.0).mean(),
        }
        spread = estimate.sigma_mm
        terms["sigma"] = ((spread.log() + distance.detach() / spread) * w).mean()
        if bool(lit.any()):
            # Which share of a colour is the skin's and which the light's one picture says only in part: a factor
            # common to the whole face counts a third.
            ratio = (estimate.albedo[lit].clamp(min=_MIN) / truth.albedo[lit].clamp(min=_MIN)).log()
            common = ratio.mean((1, 2), keepdim=True)
            terms["albedo"] = (((ratio - common).abs() + common.abs() / 3) * w[:, None]).mean()
            transfer = self.corrector.transfer(true_normals[lit])
            shading = (transfer @ estimate.light_sh[lit]).clamp(min=_MIN)
            true_shading = (transfer @ truth.light_sh[lit]).clamp(min=_MIN)
            shade_ratio = (shading / true_shading).log()
            shade_common = shade_ratio.mean((1, 2), keepdim=True)
            terms["shading"] = (((shade_ratio - shade_common).abs() + shade_common.abs() / 3) * w[:, None]).mean()
            terms["product"] = ((ratio + shade_ratio).abs() * w[:, None]).mean()
        return terms

    def _self_supervised(self, estimate: CropEstimate, batch: FaceSampleBatch, rows: Tensor) -> dict[str, Tensor]:
        model = self.corrector.model
        marks = batch.fit.landmarks[rows][:, _FIRST_INNER:]
        index = model.landmark_verts[_FIRST_INNER:]
        off = (estimate.camera.project(estimate.verts_mm[:, index]) - marks).norm(dim=2)
        terms = {"landmark": 100 * functional.smooth_l1_loss(off, torch.zeros_like(off), beta=0.01)}
        if model.mirror_verts is not None:
            log_albedo = estimate.albedo.clamp(min=_MIN).log()
            terms["symmetry"] = (log_albedo - log_albedo[:, model.mirror_verts]).abs().mean()
            terms["smooth_albedo"] = (log_albedo - self.topology.neighbor_mean(log_albedo)).abs().mean()
        base = (estimate.verts_mm - estimate.offsets_mm).detach()
        edges = self._edges(base).clamp(min=0.3)
        terms["edge"] = ((self._edges(estimate.verts_mm) - edges).abs() / edges).clamp(max=3.0).mean()
        if self.weights.photometric:
            terms["photometric"] = self._photometric(estimate, batch, rows)
        return terms

    def picture(self, estimate: CropEstimate) -> RenderedImage:
        """Returns the faces in their crops, linear light."""
        size, camera = self.render_px, estimate.camera
        pixels = Camera(camera.R, camera.T, camera.focal_px * size, camera.principal_px * size)
        normals = vertex_normals(estimate.verts_mm, self.corrector.model.faces)
        light = SphericalHarmonicLight(estimate.light_sh)
        return self.renderer(
            estimate.verts_mm, pixels, light, estimate.albedo, transfer=self.corrector.transfer(normals)
        )

    def _photometric(self, estimate: CropEstimate, batch: FaceSampleBatch, rows: Tensor) -> Tensor:
        """Returns the mean difference of rendered and real skin, robust to what the label map missed."""
        size = self.render_px
        picture = self.picture(estimate)
        photo = batch.images[rows].permute(0, 3, 1, 2).float() / 255
        target = functional.interpolate(photo, (size, size), mode="area").permute(0, 2, 3, 1)
        labels = batch.labels[rows]
        skin = ((labels == Label.SKIN) | (labels == Label.NOSE) | (labels == Label.MOUTH)).float()
        skin = functional.interpolate(skin[:, None], (size, size), mode="area")[:, 0]
        weight = (skin > 0.99).float() * (picture.alpha.detach() > 0.99)
        shown = linear_to_srgb(picture.image.clamp(min=1e-4))
        difference = ((shown - target).square().sum(3) + 1e-4).sqrt().clamp(max=0.5)
        return (difference * weight).sum() / weight.sum().clamp(min=1.0)


def _rows(estimate: CropEstimate, rows: Tensor) -> CropEstimate:
    if bool(rows.all()):
        return estimate
    rest = {name: value[rows] for name, value in estimate.__dict__.items() if name != "camera"}
    return CropEstimate(camera=estimate.camera.select(rows), **rest)


def _truth_rows(truth: FaceTruth, rows: Tensor) -> FaceTruth:
    if bool(rows.all()):
        return truth
    rest = {name: value[rows] for name, value in truth.__dict__.items() if name != "camera"}
    return FaceTruth(camera=truth.camera.select(rows), **rest)
