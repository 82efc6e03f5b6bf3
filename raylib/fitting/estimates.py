"""What goes into a reconstruction method and what comes out, for a batch of faces.

A method sees faces as `FaceBatch` and answers with `FaceEstimates`; refinement makes better estimates of estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from raylib.geometry.camera import Camera


@dataclass(frozen=True)
class FaceBatch:
    """Faces as the detection leaves them.

    Attributes:
        landmarks_px: detected landmarks in the photograph (Multi-PIE / iBUG order).
        focal_px: focal lengths that are known or assumed.
        principal_px: principal points (x, y).
        crops: aligned crops (see `detection.alignment.crop_face`), sRGB.
        crop_to_photo: affine maps from crop to photograph.
        labels: label maps of the crops (`segmentation.labels.Label`), or None without segmentation.
    """

    landmarks_px: Float[Tensor, "b 68 2"]
    focal_px: Float[Tensor, " b"]
    principal_px: Float[Tensor, "b 2"]
    crops: UInt8[np.ndarray, "b s s 3"]
    crop_to_photo: Float[np.ndarray, "b 2 3"]
    labels: UInt8[np.ndarray, "b s s"] | None = None

    def __len__(self) -> int:
        return len(self.landmarks_px)

    def landmarks_in_crop(self, size: int) -> Float[Tensor, "b 68 2"]:
        """Returns the landmarks in pixels of the crops, reduced to `size` pixels."""
        to_photo = torch.from_numpy(self.crop_to_photo).to(self.landmarks_px.device, torch.float64)
        moved = (self.landmarks_px.double() - to_photo[:, None, :, 2]).transpose(1, 2)
        inside = torch.linalg.solve(to_photo[:, :, :2], moved).transpose(1, 2)
        return (inside * (size / self.crops.shape[1])).to(self.landmarks_px)

    def crop_camera(self, camera: Camera, size: int) -> Camera:
        """Returns cameras that see the crops, reduced to `size` pixels, where `camera` sees the photographs.

        A crop is turned and scaled in the image plane: the turn goes into the pose, the principal point moves along.

        Args:
            camera: cameras of the photographs.
            size: side of the crops in pixels; need not be that of `crops`.
        """
        to_photo = torch.from_numpy(self.crop_to_photo).to(camera.R.device, torch.float64)
        linear, offset = to_photo[:, :, :2], to_photo[:, :, 2]
        photo_per_crop = linear.det().sqrt()
        turn = linear / photo_per_crop[:, None, None]  # photograph <- crop
        shrink = size / self.crops.shape[1]
        principal = torch.linalg.solve(linear, (camera.principal_px.double() - offset)[..., None])[..., 0] * shrink
        flat = torch.eye(3, dtype=torch.float64, device=turn.device).repeat(len(turn), 1, 1)
        flat[:, :2, :2] = turn.transpose(1, 2)
        return Camera(
            (flat @ camera.R.double()).to(camera.R),
            (flat @ camera.T.double()[..., None])[..., 0].to(camera.T),
            (camera.focal_px.double() * shrink / photo_per_crop).to(camera.focal_px),
            principal.to(camera.principal_px),
        )

    def photo_camera(self, camera: Camera, size: int) -> Camera:
        """Returns cameras that see the photographs where `camera` sees the crops: the way back from `crop_camera`.

        Args:
            camera: cameras of the crops.
            size: side in pixels of the crops that they see; need not be that of `crops`.
        """
        to_photo = torch.from_numpy(self.crop_to_photo).to(camera.R.device, torch.float64)
        linear, offset = to_photo[:, :, :2] * (self.crops.shape[1] / size), to_photo[:, :, 2]
        photo_per_crop = linear.det().sqrt()
        turn = torch.eye(3, dtype=torch.float64, device=linear.device).repeat(len(linear), 1, 1)
        turn[:, :2, :2] = linear / photo_per_crop[:, None, None]
        return Camera(
            (turn @ camera.R.double()).to(camera.R),
            (turn @ camera.T.double()[..., None])[..., 0].to(camera.T),
            (camera.focal_px.double() * photo_per_crop).to(camera.focal_px),
            ((linear @ camera.principal_px.double()[..., None])[..., 0] + offset).to(camera.principal_px),
        )


@dataclass(frozen=True)
class FaceEstimates:
    """Faces as a method sees them; what a method does not estimate is None.

    Attributes:
        camera: pose and camera of each face, in pixels of the photograph.
        verts_mm: vertices in canonical face space, in the topology of the method's model.
        identity: identity coefficients.
        expression: expression coefficients.
        landmarks_px: projections of the landmarks, NaN where the model has none.
        error_px: mean distance of projected and detected landmarks.
        error_iod: the same as a share of the distance of the outer eye corners.
        albedo: share of light that each vertex reflects, linear RGB.
        light_sh: light in canonical face space (see `lighting`), so that albedo times shading is linear RGB.
        sigma_mm: standard deviation of each vertex's position.
        strangeness: how far the picture is from those that the method was trained on (`CropEstimate`).
    """

    camera: Camera
    verts_mm: Float[Tensor, "b v 3"]
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    landmarks_px: Float[Tensor, "b 68 2"]
    error_px: Float[Tensor, " b"]
    error_iod: Float[Tensor, " b"]
    albedo: Float[Tensor, "b v 3"] | None = None
    light_sh: Float[Tensor, "b 9 3"] | None = None
    sigma_mm: Float[Tensor, "b v"] | None = None
    strangeness: Float[Tensor, " b"] | None = None

    def select(self, index: slice | Tensor) -> FaceEstimates:
        """Returns the faces at `index`."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "camera"}
        rest: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return FaceEstimates(camera=self.camera.select(index), **rest)

    def usable(self) -> Bool[Tensor, " b"]:
        """Tells which faces are finite and wholly before their camera."""
        depth = self.camera.to_camera(self.verts_mm)[..., 2]
        return torch.isfinite(self.verts_mm).flatten(1).all(1) & (depth.amin(1) > 1.0)
