"""The keypoint method: pose, identity and expression of a linear face model from 68 landmarks.

Maximum a posteriori under a perspective camera of given focal length: residuals of the projected landmark vertices
in pixels, identity coefficients ~ N(0, 1), expression coefficients ~ N(0, sigma) within their bounds. The landmarks
of the jaw slide: each takes the vertex of its line that lies on the outline in the present pose. All faces of a
batch go through the same few batched solves. See docs/fitting.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raylib.config import FitSettings
from raylib.errors import ConfigError
from raylib.geometry.camera import Camera, rotation_from_vector
from raylib.geometry.landmarks68 import OUTER_EYE
from raylib.morphable.model import LinearFaceModel

JAW = 17
"""Landmarks 0..16 are the jaw line."""

_STEPS = 2  # Gauss-Newton steps between two choices of the jaw's vertices
_MIN_MODE_MM = 0.03  # combinations of identity modes that move the landmarks by less stay at zero


class SlidingLandmarks:
    """Which vertices of a face model are its landmarks: along the jaw, candidates of which a pose takes one.

    Args:
        model: the model.

    Attributes:
        lines: candidates of the landmarks 0..16, each row padded with its first; -1 where the model has none.
    """

    def __init__(self, model: LinearFaceModel):
        lines = model.contour_verts[:JAW] if len(model.contour_verts) else model.landmark_verts[:JAW, None]
        self.lines: Int[Tensor, "17 n"] = torch.where(lines < 0, lines[:, :1], lines)
        self._fixed = model.landmark_verts

    def nearest(
        self, verts: Float[Tensor, "b v 3"], camera: Camera, given_px: Float[Tensor, "b 68 2"]
    ) -> Int[Tensor, "b 68"]:
        """Returns the vertex of each landmark; on the jaw the one of its line that projects nearest to the given.

        Args:
            verts: vertices in the cameras' face space.
            camera: one camera a face.
            given_px: detected landmarks in the cameras' pixels.
        """
        chosen = self._fixed.expand(len(verts), 68).clone()
        seen = camera.project(verts[:, self.lines.clamp(min=0).flatten()]).unflatten(1, self.lines.shape)
        best = (seen - given_px[:, :JAW, None]).square().sum(-1).argmin(2)
        chosen[:, :JAW] = self.lines.expand(len(verts), -1, -1).gather(2, best[..., None])[..., 0]
        return chosen


@dataclass(frozen=True)
class LandmarkFit:
    """Faces fitted to landmarks.

    Attributes:
        camera: pose and camera of each face.
        identity: identity coefficients, standard deviations.
        expression: expression coefficients within the model's bounds.
        verts_mm: the faces in canonical space, millimetres; their size is the model prior's.
        landmarks_px: projections of the landmark vertices, NaN for landmarks that the model does not define.
        landmark_verts: vertex of each landmark in this pose, -1 where the model defines none.
        error_px: mean distance of the projected from the given landmarks in pixels.
        error_iod: the same as a share of the distance of the given outer eye corners (inter-ocular as in 300-W).
    """

    camera: Camera
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    verts_mm: Float[Tensor, "b v 3"]
    landmarks_px: Float[Tensor, "b 68 2"]
    landmark_verts: Int[Tensor, "b 68"]
    error_px: Float[Tensor, " b"]
    error_iod: Float[Tensor, " b"]

    def select(self, index: slice) -> LandmarkFit:
        """Returns the fits at `index`."""
        rest = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "camera"}
        return LandmarkFit(camera=self.camera.select(index), **rest)


@dataclass(frozen=True)
class _State:
    """Unknowns of a batch: pose, then shape coefficients (reduced identity, expression)."""

    R: Float[Tensor, "b 3 3"]
    T: Float[Tensor, "b 3"]
    shape: Float[Tensor, "b q"]


@dataclass(frozen=True)
class _Points:
    """What stands for the landmarks of a batch while pose and shape are solved for.

    Attributes:
        index: point of each landmark.
        mean: its position in the mean face.
        modes: its displacement by each shape coefficient.
        whiten: square roots of the landmarks' information matrices, per millimetre at the face; 0 where the model
            has no such landmark.
    """

    index: Int[Tensor, "b 68"]
    mean: Float[Tensor, "b 68 3"]
    modes: Float[Tensor, "b 68 3 q"]
    whiten: Float[Tensor, "b 68 2 2"]


class LandmarkFitter:
    """Fits one model to batches of landmarks; what depends on the model alone is prepared once.

    Args:
        model: model with at least the eye corners and 20 landmarks; its device is where the fit runs.
        settings: noise model and number of steps.

    Raises:
        ConfigError: the model has too few landmarks.
    """

    def __init__(self, model: LinearFaceModel, settings: FitSettings):
        self.model, self.settings = model, settings
        present = model.has_landmark.clone()
        lines = SlidingLandmarks(model).lines
        present[:JAW] = lines[:, 0] >= 0
        if int(present.sum()) < 20 or not bool(present[list(OUTER_EYE)].all()):
            raise ConfigError(f"morphable_model {model.name!r} defines {int(present.sum())} landmarks, expected 20")
        self.present: Bool[Tensor, " 68"] = present
        # Points that a landmark may be: one each for 17..67, then the lines of the jaw.
        verts = torch.cat([model.landmark_verts[JAW:], lines.flatten()])
        self.line_points = lines.shape[1]
        self.point_verts = verts
        index = verts.clamp(min=0)
        self.mean = model.mean[index].double()
        identity = model.identity[:, index].double().flatten(1)
        # Identity modes are N(0, 1) in any rotated basis; keep the directions that landmarks can see at all.
        u, s, vt = torch.linalg.svd(identity, full_matrices=False)
        kept = s > _MIN_MODE_MM * len(index) ** 0.5
        self.rotation: Float[Tensor, "k r"] = u[:, kept]
        reduced = (s[kept, None] * vt[kept]).reshape(-1, len(index), 3)
        expression = model.expression[:, index].double()
        modes = torch.cat([reduced, expression])
        self.modes: Float[Tensor, "p 3 q"] = modes.permute(1, 2, 0).contiguous()
        self.n_identity = len(reduced)
        # How much each identity coefficient enlarges the face, in standard deviations of its size.
        centred = self.mean - self.mean.mean(0)
        self.growth = torch.einsum("pd,pdq->q", centred, self.modes) / centred.square().sum()
        self.growth[self.n_identity :] = 0.0
        self.growth = self.growth / settings.size_sigma
        one_sided = torch.cat([model.expression_bounds.new_ones(self.n_identity), model.expression_bounds[:, 0]]) == 0
        self.one_sided = one_sided.double()
        unbounded = modes.new_tensor([[-torch.inf, torch.inf]]).expand(self.n_identity, 2)
        self.low, self.high = torch.cat([unbounded, model.expression_bounds.double()]).unbind(1)
        self.posed_by = present.clone()
        self.posed_by[:JAW] = False
        # Landmark noise: isotropic, but loose along the jaw line; nothing where the model has no landmark.
        one = self.mean.new_ones(68).masked_fill(~present, 0.0)
        self.whiten = torch.eye(2).to(one) * one[:, None, None] / settings.landmark_sigma_mm
        loose = 1 / settings.contour_sigma_mm - 1 / settings.landmark_sigma_mm
        self.looseness = (loose * one[:JAW])[:, None, None]
        self.image_axes = torch.eye(2).to(one)
        self.inner = torch.arange(68 - JAW, device=index.device)
        self.line_starts = 68 - JAW + self.line_points * torch.arange(JAW, device=index.device)
        self.line_modes = self.modes[68 - JAW :].permute(2, 0, 1).flatten(1)
        self.side = torch.where(self.line_starts < self.line_starts[JAW // 2], -1.0, 1.0).to(one)
        frame = self.mean[: 68 - JAW][self.posed_by[JAW:]]
        self.affine = torch.linalg.pinv(torch.cat([frame, torch.ones_like(frame[:, :1])], dim=1))

    def fit(
        self,
        landmarks_px: Float[Tensor, "b 68 2"],
        focal_px: Float[Tensor, " b"],
        principal_px: Float[Tensor, "b 2"],
    ) -> LandmarkFit:
        """Returns the most probable faces for these landmarks.

        Args:
            landmarks_px: landmarks in image space (Multi-PIE / iBUG order).
            focal_px: focal lengths.
            principal_px: principal points.
        """
        target = (landmarks_px - principal_px[:, None]).to(self.mean)
        focal = focal_px.to(self.mean)
        state = self._pose_from_affine(target, focal)
        for _ in range(self.settings.alternations):
            points = self._points(state, target, focal)
            for _ in range(_STEPS):
                state = self._step(state, points, target, focal)
        points = self._points(state, target, focal)
        return self._result(state, points, landmarks_px, focal_px, principal_px)

    def _pose_from_affine(self, target: Float[Tensor, "b 68 2"], focal: Float[Tensor, " b"]) -> _State:
        """Returns poses under scaled orthography with the mean face (POS; DeMenthon and Davis, IJCV 1995)."""
        affine = self.affine @ target[:, self.posed_by]  # (b, 4, 2)
        x, y = affine[:, :3].unbind(2)
        scale = (x.norm(dim=1) * y.norm(dim=1)).sqrt()
        x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
        # The orthonormal pair nearest to two unit vectors lies at 45 degrees from their bisectors.
        half, cross = x + y, x - y
        half, cross = half / half.norm(dim=1, keepdim=True), cross / cross.norm(dim=1, keepdim=True)
        x, y = (half + cross) / 2**0.5, (half - cross) / 2**0.5
        R = torch.stack([x, y, torch.linalg.cross(x, y)], dim=1)
        T = torch.cat([affine[:, 3] / scale[:, None], (focal / scale)[:, None]], dim=1)
        return _State(R, T, target.new_zeros(len(target), len(self.low)))

    def _points(self, state: _State, target: Tensor, focal: Tensor) -> _Points:
        """Returns what stands for each landmark; on the jaw the outermost point of its line in this pose."""
        b = len(state.T)
        inner = 68 - JAW
        lines = self.mean[inner:] + (state.shape @ self.line_modes).unflatten(1, (-1, 3))
        p = lines @ state.R.transpose(1, 2) + state.T[:, None]
        image = (p[..., :2] / p[..., 2:]).reshape(b, JAW, self.line_points, 2)
        # Outwards is across the image of the head's own vertical, to the right for the subject's left side.
        up = state.R[:, :2, 1]
        right = torch.stack([-up[:, 1], up[:, 0]], dim=1)
        best = (image @ right[:, None, :, None]).squeeze(3).mul(self.side[:, None]).argmax(2)
        # A detector may also have kept to the jaw line itself: the nearer of the two is meant.
        ends = torch.stack(
            [image[:, :, 0], image.gather(2, best[..., None, None].expand(b, JAW, 1, 2))[:, :, 0]], dim=2
        )
        off = (ends * focal[:, None, None, None] - target[:, :JAW, None]).square().sum(3)
        outer = off[..., 1] < off[..., 0]
        best, jaw = best * outer, torch.where(outer[..., None], ends[:, :, 1], ends[:, :, 0])
        along = torch.cat([jaw[:, 1:2] - jaw[:, :1], jaw[:, 2:] - jaw[:, :-2], jaw[:, -1:] - jaw[:, -2:-1]], dim=1)
        along = along / along.norm(dim=2, keepdim=True).clamp(min=1e-12)
        whiten = self.whiten.expand(b, 68, 2, 2).clone()
        whiten[:, :JAW] += self.looseness * along[..., :, None] * along[..., None, :]
        index = torch.cat([self.line_starts + best, self.inner.expand(b, inner)], dim=1)
        return _Points(index, self.mean[index], self.modes[index], whiten)

    def _step(self, state: _State, points: _Points, target: Tensor, focal: Tensor) -> _State:
        """Returns the state after one Gauss-Newton step on pose and shape together.

        Expression bounds are kept by projection: a coefficient at a bound that would leave it is held for this step
        (projected Newton; Bertsekas, SIAM J. Control and Optimization 20, 1982).
        """
        X = points.mean + (points.modes @ state.shape[:, None, :, None]).squeeze(3)
        turned = X @ state.R.transpose(1, 2)
        p = turned + state.T[:, None]
        per_z = focal[:, None, None] / p[..., 2:].clamp(min=1.0)
        projected = p[..., :2] * per_z
        # Residuals in standard deviations: landmark noise is given in millimetres at the face's distance.
        whiten = points.whiten * (state.T[:, 2] / focal)[:, None, None, None]
        residual = whiten @ (target - projected)[..., None]
        distance = residual.norm(dim=(2, 3), keepdim=True)
        weight = (self.settings.outlier_sigmas / distance.clamp(min=1e-12)).clamp(max=1.0).sqrt()
        whiten, residual = whiten * weight, residual * weight

        # d(u, v) / d(camera point), whitened: (b, 68, 2, 3).
        depth_column = (-projected / focal[:, None, None])[..., None]
        by_point = torch.cat([self.image_axes.expand(len(p), 68, 2, 2), depth_column], dim=3)
        to_image = whiten @ by_point * per_z[..., None]
        # A small turn w moves a point by w x turned; row j of to_image then gives (turned x row j) . w.
        by_turn = torch.linalg.cross(turned[:, :, None].expand_as(to_image), to_image)
        J = torch.cat([by_turn, to_image, (to_image @ state.R[:, None]) @ points.modes], dim=3).flatten(1, 2)
        H, g = J.transpose(1, 2) @ J, (J.transpose(1, 2) @ residual.flatten(1, 2)).squeeze(2)
        precision = self._prior_precision(state.shape)
        g[:, 6:] -= precision * state.shape + (state.shape @ self.growth)[:, None] * self.growth
        H.diagonal(dim1=1, dim2=2)[:, 6:] += precision
        H[:, 6:, 6:] += self.growth[:, None] * self.growth
        held = ((state.shape <= self.low) & (g[:, 6:] < 0)) | ((state.shape >= self.high) & (g[:, 6:] > 0))
        free = torch.cat([held.new_ones(len(g), 6), ~held], dim=1).to(H)
        H = H * free[:, None] * free[:, :, None]
        H.diagonal(dim1=1, dim2=2).add_(1 - free)
        g = g * free
        H.diagonal(dim1=1, dim2=2).mul_(1 + 1e-9)
        step = torch.cholesky_solve(g[..., None], torch.linalg.cholesky_ex(H)[0]).squeeze(2)

        shape = (state.shape + step[:, 6:]).clamp(self.low, self.high)
        return _State(rotation_from_vector(step[:, :3]) @ state.R, state.T + step[:, 3:6], shape)

    def _prior_precision(self, shape: Float[Tensor, "b q"]) -> Float[Tensor, "b q"]:
        """Returns the curvature of the prior: 1 for normal coefficients, reweighted for blendshapes.

        Blendshape coefficients follow an exponential law, whose linear cost is majorised by a parabola through the
        present value (reweighted least squares): small ones shrink, large ones are left alone.
        """
        scale = self.settings.expression_scale
        return 1 - self.one_sided + self.one_sided / (scale * shape.clamp(min=scale))

    def _result(
        self, state: _State, points: _Points, landmarks_px: Tensor, focal_px: Tensor, principal_px: Tensor
    ) -> LandmarkFit:
        dtype, device = self.model.mean.dtype, self.model.mean.device
        X = points.mean + (points.modes @ state.shape[:, None, :, None]).squeeze(3)
        exact = Camera(state.R, state.T, focal_px.to(state.T), principal_px.to(state.T))
        projected = exact.project(X).masked_fill(~self.present[:, None], torch.nan)
        given = landmarks_px.to(state.T)
        distance = (projected - given).norm(dim=2)
        error = distance.nanmean(dim=1)
        inter_ocular = (given[:, OUTER_EYE[0]] - given[:, OUTER_EYE[1]]).norm(dim=1)
        identity = (state.shape[:, : self.n_identity] @ self.rotation.T).to(dtype)
        expression = state.shape[:, self.n_identity :].to(dtype)
        return LandmarkFit(
            camera=Camera(*(t.to(device, dtype) for t in (exact.R, exact.T, exact.focal_px, exact.principal_px))),
            identity=identity,
            expression=expression,
            verts_mm=self.model.verts(identity, expression),
            landmarks_px=projected.to(dtype),
            landmark_verts=self.point_verts[points.index].masked_fill(~self.present, -1),
            error_px=error.to(dtype),
            error_iod=(error / inter_ocular).to(dtype),
        )


def fit_landmarks(
    model: LinearFaceModel,
    landmarks_px: Float[Tensor, "b 68 2"],
    focal_px: Float[Tensor, " b"],
    principal_px: Float[Tensor, "b 2"],
    settings: FitSettings,
) -> LandmarkFit:
    """Returns the most probable faces for these landmarks; keep a `LandmarkFitter` where many batches follow."""
    return LandmarkFitter(model, settings).fit(landmarks_px, focal_px, principal_px)
