"""Landmark fits in the space of the aligned crop, and reading pictures where vertices project."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from raylib.geometry.camera import Camera


@dataclass(frozen=True)
class CropFit:
    """Landmark fits in the space of their crops, whose side is 1.

    Attributes:
        camera: pose, and camera of the crop.
        identity: identity coefficients.
        expression: expression coefficients.
        landmarks: as detected.
        fitted: projections of the fit's landmarks.
    """

    camera: Camera
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    landmarks: Float[Tensor, "b 68 2"]
    fitted: Float[Tensor, "b 68 2"]

    def to(self, device: torch.device | str) -> CropFit:
        """Returns the fits on a device."""
        rest = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "camera"}
        c = self.camera
        camera = Camera(c.R.to(device), c.T.to(device), c.focal_px.to(device), c.principal_px.to(device))
        return CropFit(camera=camera, **rest)


def sample_at(picture: Float[Tensor, "b c h w"], at: Float[Tensor, "b v 2"]) -> Float[Tensor, "b v c"]:
    """Returns a picture's values at places in -1..1, its border's beyond."""
    sampled = functional.grid_sample(picture, at[:, None], padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)
