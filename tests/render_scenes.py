"""Meshes and random triangles that the rendering tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FACE_LIKE_ROWS = 46
BLUR = float(np.log(1 / 1e-4 - 1) * 1e-4)
"""PyTorch3D's usual blur for sigma = 1e-4: where the sigmoid has fallen to 1e-4."""


def dome(rows: int = FACE_LIKE_ROWS, noise: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A hemisphere of rows x rows vertices with a nose, +z outwards, radius 1, counter-clockwise from outside."""
    u = torch.linspace(-1, 1, rows)
    y, x = torch.meshgrid(u, u, indexing="ij")
    dx, dy = x * torch.sqrt(1 - y * y / 2), y * torch.sqrt(1 - x * x / 2)
    radius2 = (dx * dx + dy * dy).clamp(max=1)
    z = torch.sqrt(1 - radius2) + 0.25 * torch.exp(-radius2 / 0.02) - 0.3
    verts = torch.stack([dx, dy, z], -1).reshape(-1, 3)
    verts = verts + noise * torch.randn(verts.shape, generator=torch.Generator().manual_seed(seed))
    i = torch.arange(rows * rows).reshape(rows, rows)
    a, b, c, d = (t.reshape(-1) for t in (i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]))
    return verts, torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)])


def random_triangles(seed: int, n_faces: int, size: float, behind: float, degenerate: float) -> Tensor:
    """Triangles (f, 3, 3) about the image: some behind the camera, some without area, some sharing their depth."""
    g = torch.Generator().manual_seed(seed)
    center = torch.rand(n_faces, 1, 3, generator=g) * torch.tensor([2.6, 2.6, 3.0]) - torch.tensor([1.3, 1.3, -0.3])
    faces = center + size * (torch.rand(n_faces, 3, 3, generator=g) - 0.5)
    choice = torch.rand(n_faces, generator=g)
    faces[choice < behind, :, 2] -= 2.0
    flat = (choice > 1 - degenerate).nonzero()[:, 0]
    faces[flat[::3], 2] = faces[flat[::3], 1]  # two equal vertices
    faces[flat[1::3], 2] = 2 * faces[flat[1::3], 1] - faces[flat[1::3], 0]  # on one line
    faces[flat[2::3]] = faces[0].clone()  # equal depths, the order of faces decides
    return faces
