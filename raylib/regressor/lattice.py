"""Convolution on the hemisphere's graph, level by level.

Midpoint subdivision of the upper half of an octahedron gives a regular mesh: with the pole at (0, 0) and the rim's
four corners at the distance r on the axes, the vertices of a level are the whole numbers (i, j) with |i| + |j| <= r,
a vertex between two others has the mean of their numbers, and the six edges of an inner vertex lead to six of its
eight neighbours in the plane. A 3 x 3 convolution of a (2r + 1)^2 picture of them is therefore a convolution on the
mesh's graph with weights of their own for each direction, and runs at the speed of pictures; what lies outside of the
diamond is kept at zero. Every second row and column are the next coarser level.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from raylib.geometry.subdivision import hemisphere


@lru_cache(maxsize=8)
def lattice_coordinates(levels: int = 5) -> Int[Tensor, "v 2"]:
    """Returns column i and row j of each vertex of the hemisphere, from -2^levels to 2^levels.

    Columns run along the template's x, which is the subject's left, and rows along its y, upwards.
    """
    r = 2**levels
    template = hemisphere(levels)
    at = torch.zeros(len(template.parents), 2, dtype=torch.long)
    at[:5] = torch.tensor([[r, 0], [0, r], [-r, 0], [0, -r], [0, 0]])
    start = 5
    for size in template.level_sizes[1:]:
        at[start:size] = at[template.parents[start:size]].sum(1) // 2
        start = size
    return at


class Lattice(nn.Module):
    """One level of the hemisphere as a picture, and the way between it and the vertices.

    Args:
        level: number of subdivisions of this level.
    """

    def __init__(self, level: int):
        super().__init__()
        r = 2**level
        self.side = 2 * r + 1
        at = lattice_coordinates(level)
        self.num_verts = len(at)
        self.register_buffer("cell", (at[:, 1] + r) * self.side + at[:, 0] + r, persistent=False)
        mask = torch.zeros(self.side * self.side)
        mask[self.cell] = 1.0
        self.register_buffer("mask", mask.reshape(1, 1, self.side, self.side), persistent=False)
        self.cell: Tensor
        self.mask: Tensor

    def masked(self, picture: Float[Tensor, "b c s s"]) -> Float[Tensor, "b c s s"]:
        """Returns the picture with zeros outside of the level."""
        return picture * self.mask.to(picture.dtype)

    def from_verts(self, values: Float[Tensor, "b v c"]) -> Float[Tensor, "b c s s"]:
        """Returns values of this level's vertices as a picture, zero outside."""
        picture = values.new_zeros(len(values), self.side * self.side, values.shape[2])
        picture[:, self.cell] = values
        return picture.reshape(-1, self.side, self.side, values.shape[2]).permute(0, 3, 1, 2)

    def to_verts(self, picture: Float[Tensor, "b c s s"]) -> Float[Tensor, "b v c"]:
        """Returns the picture's values at this level's vertices."""
        return picture.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.cell)


def subdivide(values: Float[Tensor, "b n c"], levels: int = 1) -> Float[Tensor, "b v c"]:
    """Returns values on a finer level of the hemisphere: the mean of the ends at each new vertex.

    Args:
        values: at the vertices of some level.
        levels: number of subdivisions.
    """
    for _ in range(levels):
        template = hemisphere(_level_of(values.shape[1]) + 1)
        ends = template.parents[values.shape[1] :].to(values.device)
        middle = (values.index_select(1, ends[:, 0]) + values.index_select(1, ends[:, 1])) / 2
        values = torch.cat([values, middle], dim=1)
    return values


def _level_of(num_verts: int) -> int:
    level = 0
    while 2 * 4**level + 2 * 2**level + 1 < num_verts:
        level += 1
    if 2 * 4**level + 2 * 2**level + 1 != num_verts:
        raise ValueError(f"{num_verts} vertices are no level of the hemisphere")
    return level


def enlarge(picture: Float[Tensor, "b c s s"], coarse: Lattice, fine: Lattice) -> Float[Tensor, "b c t t"]:
    """Returns features of one level on the next finer, the mean of the neighbours that are vertices."""
    size = (fine.side, fine.side)
    mask = coarse.mask.to(picture.dtype)
    spread = functional.interpolate(picture * mask, size, mode="bilinear", align_corners=True)
    share = functional.interpolate(mask, size, mode="bilinear", align_corners=True)
    return spread / share.clamp(min=0.25) * fine.mask.to(picture.dtype)
