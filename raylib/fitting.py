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

from raylib.camera import Camera
from raylib.config import FitSettings
from raylib.errors import ConfigError
from raylib.morphable import LinearFaceModel

JAW = 17
"""Landmarks 0..16 are the jaw line."""
OUTER_EYE = (36, 45)

_POSE_STEPS = 3
_LEAST_MODE_MM = 0.03  # combinations of identity modes that move the landmarks by less stay at zero


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
        weights: 1 for a landmark within the noise, less the farther out it lies.
        error_px: mean distance of the projected from the given landmarks in pixels.
        error_iod: the same as a share of the distance of the given outer eye corners (inter-ocular as in 300-W).
    """

    camera: Camera
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    verts_mm: Float[Tensor, "b v 3"]
    landmarks_px: Float[Tensor, "b 68 2"]
    landmark_verts: Int[Tensor, "b 68"]
    weights: Float[Tensor, "b 68"]
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
        lines = model.contour_verts[:JAW] if len(model.contour_verts) else model.landmark_verts[:JAW, None]
        # Pad a line with its own first vertex, so that every row has as many candidates.
        lines = torch.where(lines < 0, lines[:, :1], lines)
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
        kept = s > _LEAST_MODE_MM * len(index) ** 0.5
        self.rotation: Float[Tensor, "k r"] = u[:, kept]
        reduced = (s[kept, None] * vt[kept]).reshape(-1, len(index), 3)
        expression = model.expression[:, index].double()
        modes = torch.cat([reduced, expression])
        self.modes: Float[Tensor, "p 3 q"] = modes.permute(1, 2, 0).contiguous()
        self.n_identity = len(reduced)
        sigma = modes.new_full((len(modes),), 1.0)
        sigma[self.n_identity :] = settings.expression_sigma
        self.precision = sigma**-2
        unbounded = modes.new_tensor([[-torch.inf, torch.inf]]).expand(self.n_identity, 2)
        self.low, self.high = torch.cat([unbounded, model.expression_bounds.double()]).unbind(1)
        self.posed_by = present.clone()
        self.posed_by[:JAW] = False
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
        for step in range(_POSE_STEPS + self.settings.iterations):
            state = self._step(state, target, focal, pose_only=step < _POSE_STEPS)
        return self._result(state, target, landmarks_px, focal_px, principal_px)

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
        return _State(R, T, target.new_zeros(len(target), len(self.precision)))

    def _chosen_points(self, state: _State) -> Int[Tensor, "b 68"]:
        """Returns the point that stands for each landmark: on the jaw the outermost of its line in this pose."""
        b = len(state.T)
        start = 68 - JAW
        lines = self.mean[start:] + (self.modes[start:].flatten(0, 1) @ state.shape.T).T.reshape(b, -1, 3)
        p = lines @ state.R.transpose(1, 2) + state.T[:, None]
        image = (p[..., :2] / p[..., 2:]).reshape(b, JAW, self.line_points, 2)
        # Outwards is across the projection of the head's own vertical, away from the nose.
        up = state.R[:, :2, 1]
        right = torch.stack([-up[:, 1], up[:, 0]], dim=1)  # the subject's left, the image's right for an upright head
        side = torch.ones(JAW).to(right)
        side[: JAW // 2] = -1.0
        reach = (image * right[:, None, None]).sum(3) * side[:, None]
        best = reach.argmax(2)
        jaw = start + torch.arange(JAW, device=best.device) * self.line_points + best
        inner = torch.arange(start, device=best.device).expand(b, start)
        return torch.cat([jaw, inner], dim=1)

    def _step(self, state: _State, target: Tensor, focal: Tensor, pose_only: bool) -> _State:
        """Returns the state after one Gauss-Newton step with projected expression bounds."""
        b = len(target)
        points = self._chosen_points(state)
        modes = self.modes[points]  # (b, 68, 3, q)
        X = self.mean[points] + (modes @ state.shape[:, None, :, None]).squeeze(3)
        turned = X @ state.R.transpose(1, 2)
        p = turned + state.T[:, None]
        z = p[..., 2:].clamp(min=1.0)
        f = focal[:, None, None]
        residual = target - f * p[..., :2] / z
        whiten = self._whitening(state, residual, f, p)

        # d(u, v)/d(camera point), whitened: (b, 68, 2, 3).
        to_image = torch.cat([torch.eye(2).to(z) * (f / z)[..., None], (-f * p[..., :2] / z**2)[..., None]], dim=3)
        to_image = whiten @ to_image
        residual = (whiten @ residual[..., None]).squeeze(3)
        # A small turn w moves the point by w x turned; row j of to_image then gives (turned x row) . w.
        by_turn = torch.linalg.cross(turned[:, :, None].expand_as(to_image), to_image)
        columns = [by_turn, to_image]
        if not pose_only:
            columns.append((to_image @ state.R[:, None]) @ modes)
        J = torch.cat(columns, dim=3).flatten(1, 2)
        r = residual.flatten(1)
        H = J.transpose(1, 2) @ J
        g = (J.transpose(1, 2) @ r[..., None]).squeeze(2)
        if not pose_only:
            g[:, 6:] -= self.precision * state.shape
            H.diagonal(dim1=1, dim2=2)[:, 6:] += self.precision
            # Coefficients at a bound that would leave it stay there for this step (projected Newton, Bertsekas 1982).
            held = ((state.shape <= self.low) & (g[:, 6:] < 0)) | ((state.shape >= self.high) & (g[:, 6:] > 0))
            free = torch.cat([held.new_ones(b, 6), ~held], dim=1).to(H)
            H = H * free[:, None] * free[:, :, None] + torch.diag_embed(1 - free)
            g = g * free
        H.diagonal(dim1=1, dim2=2).mul_(1 + 1e-9)
        step = torch.cholesky_solve(g[..., None], torch.linalg.cholesky_ex(H)[0]).squeeze(2)

        R = torch.matrix_exp(_skew(step[:, :3])) @ state.R
        shape = state.shape if pose_only else (state.shape + step[:, 6:]).clamp(self.low, self.high)
        return _State(R, state.T + step[:, 3:6], shape)

    def _whitening(self, state: _State, residual: Tensor, f: Tensor, p: Tensor) -> Float[Tensor, "b 68 2 2"]:
        """Returns the square roots of the landmarks' information matrices, outliers weighted down."""
        per_mm = (f[:, 0, 0] / state.T[:, 2])[:, None]  # pixels per millimetre at the face
        sigma = self.settings.landmark_sigma_mm * per_mm
        eye = torch.eye(2).to(residual)
        whiten = (eye / sigma[..., None, None]).expand(len(residual), 68, 2, 2).clone()
        jaw = p[:, :JAW, :2] / p[:, :JAW, 2:]
        along = torch.cat([jaw[:, 1:2] - jaw[:, :1], jaw[:, 2:] - jaw[:, :-2], jaw[:, -1:] - jaw[:, -2:-1]], dim=1)
        along = along / along.norm(dim=2, keepdim=True).clamp(min=1e-12)
        outer = along[..., :, None] * along[..., None, :]
        loose = 1 / (self.settings.contour_sigma_mm * per_mm)[..., None, None]
        whiten[:, :JAW] += (loose - 1 / sigma[..., None, None]) * outer
        distance = (whiten @ residual[..., None]).squeeze(3).norm(dim=2)
        weight = (self.settings.outlier_sigmas / distance.clamp(min=1e-12)).clamp(max=1.0) * self.present
        return whiten * weight.sqrt()[..., None, None]

    def _result(
        self, state: _State, target: Tensor, landmarks_px: Tensor, focal_px: Tensor, principal_px: Tensor
    ) -> LandmarkFit:
        dtype = self.model.mean.dtype
        device = self.model.mean.device
        points = self._chosen_points(state)
        X = self.mean[points] + (self.modes[points] @ state.shape[:, None, :, None]).squeeze(3)
        exact = Camera(state.R, state.T, focal_px.to(state.T), principal_px.to(state.T))
        projected = exact.project(X).masked_fill(~self.present[:, None], torch.nan)
        given = landmarks_px.to(state.T)
        distance = (projected - given).norm(dim=2)
        error = distance.nanmean(dim=1)
        inter_ocular = (given[:, OUTER_EYE[0]] - given[:, OUTER_EYE[1]]).norm(dim=1)
        per_mm = exact.focal_px / state.T[:, 2]
        limit = self.settings.outlier_sigmas * self.settings.landmark_sigma_mm * per_mm
        identity = (state.shape[:, : self.n_identity] @ self.rotation.T).to(dtype)
        expression = state.shape[:, self.n_identity :].to(dtype)
        camera = Camera(*(t.to(device, dtype) for t in (exact.R, exact.T, exact.focal_px, exact.principal_px)))
        return LandmarkFit(
            camera=camera,
            identity=identity,
            expression=expression,
            verts_mm=self.model.verts(identity, expression),
            landmarks_px=projected.to(dtype),
            landmark_verts=self.point_verts[points].masked_fill(~self.present, -1),
            weights=(limit[:, None] / distance).clamp(max=1.0).nan_to_num(0.0).to(dtype),
            error_px=error.to(dtype),
            error_iod=(error / inter_ocular).to(dtype),
        )


def _skew(w: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    x, y, z = w.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)


def fit_landmarks(
    model: LinearFaceModel,
    landmarks_px: Float[Tensor, "b 68 2"],
    focal_px: Float[Tensor, " b"],
    principal_px: Float[Tensor, "b 2"],
    settings: FitSettings,
) -> LandmarkFit:
    """Returns the most probable faces for these landmarks; keep a `LandmarkFitter` where many batches follow."""
    return LandmarkFitter(model, settings).fit(landmarks_px, focal_px, principal_px)
