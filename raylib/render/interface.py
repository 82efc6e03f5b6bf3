"""What every rasteriser returns, and which backend renders where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from raylib.errors import ConfigError

BACKENDS = ("numba", "pytorch3d")
"""Names of the backends: our CPU kernels, and PyTorch3D on any device."""


@dataclass(frozen=True)
class Fragments:
    """The nearest faces of every pixel, near to far, padded with -1; the fields are PyTorch3D's.

    Attributes:
        pix_to_face: index into the packed faces of the batch.
        zbuf: depth.
        bary_coords: barycentric coordinates within the face.
        dists: signed squared distance to the nearest edge in the image, negative inside.
    """

    pix_to_face: Int[Tensor, "b h w k"]
    zbuf: Float[Tensor, "b h w k"]
    bary_coords: Float[Tensor, "b h w k 3"]
    dists: Float[Tensor, "b h w k"]

    def detach(self) -> Fragments:
        """Returns the same values without their history."""
        return Fragments(self.pix_to_face, self.zbuf.detach(), self.bary_coords.detach(), self.dists.detach())


@dataclass(frozen=True)
class PixelFragments:
    """The nearest face of every pixel as NumPy arrays, -1 where there is none.

    Attributes:
        pix_to_face: (b, h, w) int64 index into the faces, the same for every image of the batch.
        zbuf: (b, h, w) float32 depth in the unit of the vertices.
        bary_coords: (b, h, w, 3) float32 barycentric coordinates, corrected for perspective.
    """

    pix_to_face: NDArray[np.int64]
    zbuf: NDArray[np.float32]
    bary_coords: NDArray[np.float32]


def choose_backend(device: torch.device | str, backend: str | None = None) -> str:
    """Returns the backend that renders on `device`: "numba" on the CPU, "pytorch3d" elsewhere.

    Args:
        device: where the tensors are.
        backend: the configuration's choice, which wins; None chooses by the device.

    Raises:
        ConfigError: the name is unknown, or the CPU kernels are asked for on another device.
    """
    device = torch.device(device)
    if backend is None:
        return "numba" if device.type == "cpu" else "pytorch3d"
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "numba" and device.type != "cpu":
        raise ConfigError(f"backend is 'numba' on device {str(device)!r}, expected the device 'cpu'")
    return backend
