"""Pinhole cameras and the spaces between a face and a photograph.

Spaces, stated once for the whole package:

- Canonical face space: millimetres, right-handed, +x to the subject's left, +y up, +z out of the face, the
  origin at the midpoint of the outer eye corners of the mean face.
- Camera space: millimetres, right-handed, +x to the image's right, +y down, +z away from the camera. A face that
  looks straight into the camera has `R = FRONTAL`.
- Image space: pixels, origin at the top left corner of the top left pixel, so that the centre of the pixel in
  row i, column j is at (j + 0.5, i + 0.5).

A point goes from face to camera by `X_cam = R @ X + T` and to the image by
`u = focal_px * X_cam.x / X_cam.z + principal_px.x`, likewise v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FRONTAL = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
"""Rotation from face to camera space of a face that looks straight into the camera."""


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras, each with the pose of the face before it.

    Attributes:
        R: rotations from face to camera space.
        T: translations in camera space, millimetres.
        focal_px: focal lengths in pixels.
        principal_px: principal points (x, y) in pixels.
    """

    R: Float[Tensor, "b 3 3"]
    T: Float[Tensor, "b 3"]
    focal_px: Float[Tensor, " b"]
    principal_px: Float[Tensor, "b 2"]

    def to_camera(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Returns points of face space in camera space, millimetres."""
        return points @ self.R.transpose(1, 2) + self.T[:, None]

    def project(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 2"]:
        """Returns the pixel positions of points of face space."""
        p = self.to_camera(points)
        return p[..., :2] / p[..., 2:] * self.focal_px[:, None, None] + self.principal_px[:, None]

    def select(self, index: slice | Tensor) -> Camera:
        """Returns the cameras at `index`."""
        return Camera(self.R[index], self.T[index], self.focal_px[index], self.principal_px[index])


def focal_from_fov(fov_deg: float, extent_px: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Returns the focal lengths in pixels that see `extent_px` pixels under the angle `fov_deg`."""
    return extent_px / (2.0 * torch.tan(torch.deg2rad(extent_px.new_tensor(fov_deg)) / 2.0))


def euler_deg(R: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """Returns yaw, pitch and roll of the head in degrees, all zero for a face that looks into the camera.

    Yaw is positive where the subject turns to its own left (the nose moves to the image's right), pitch where it
    looks up, roll where the head tilts clockwise in the image. The head's rotation before the frontal flip is
    `FRONTAL^T R = R_y(yaw) R_x(-pitch) R_z(-roll)`.
    """
    H = R.new_tensor(FRONTAL).T @ R
    pitch = torch.asin(H[:, 1, 2].clamp(-1, 1))
    yaw = torch.atan2(H[:, 0, 2], H[:, 2, 2])
    roll = -torch.atan2(H[:, 1, 0], H[:, 1, 1])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=-1))


def rotation_from_euler_deg(angles: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Returns rotations from face to camera space; the inverse of `euler_deg` within 90 degrees of pitch."""
    yaw, pitch, roll = torch.deg2rad(angles).unbind(-1)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).reshape(-1, 3, 3)

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    ry = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    rx = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    rz = matrix(cr, sr, zero, -sr, cr, zero, zero, zero, one)
    return angles.new_tensor(FRONTAL) @ ry @ rx @ rz


def rotation_from_vector(w: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Returns the rotations about the vectors w by their lengths in radians (Rodrigues)."""
    x, y, z = w.unbind(1)
    zero = torch.zeros_like(x)
    S = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).reshape(-1, 3, 3)
    angle = w.norm(dim=1)[:, None, None]
    half = torch.sinc(angle / (2 * torch.pi))
    return torch.eye(3).to(w) + torch.sinc(angle / torch.pi) * S + 0.5 * half**2 * (S @ S)
