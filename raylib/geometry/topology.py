"""What losses and smoothing need to know of a mesh besides its vertices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylib.geometry.mesh import unique_edges


@dataclass(frozen=True)
class Topology:
    """What the losses need to know of a mesh besides its vertices; made once for a template.

    Attributes:
        faces: triangles with one orientation.
        num_verts: number of vertices.
    """

    faces: Int[Tensor, "f 3"]
    num_verts: int

    @cached_property
    def edges(self) -> Int[Tensor, "e 2"]:
        """Each edge once."""
        return unique_edges(self.faces.cpu()).to(self.faces.device)

    @cached_property
    def degree(self) -> Float[Tensor, " v"]:
        """Number of neighbours of each vertex."""
        return torch.bincount(self.edges.flatten(), minlength=self.num_verts).float()

    @cached_property
    def face_pairs(self) -> Int[Tensor, "p 2"]:
        """Faces that share an edge."""
        sides = torch.stack([self.faces, self.faces.roll(-1, dims=1)], dim=2).sort(dim=2).values.reshape(-1, 2)
        keys = sides[:, 0] * self.num_verts + sides[:, 1]
        order = keys.argsort(stable=True)
        same = (keys[order][1:] == keys[order][:-1]).nonzero()[:, 0]
        return torch.stack([order[same] // 3, order[same + 1] // 3], dim=1)

    def neighbor_mean(self, values: Float[Tensor, "b v c"]) -> Float[Tensor, "b v c"]:
        """Returns the mean of each vertex's neighbours."""
        a, b = self.edges.unbind(1)
        total = torch.zeros_like(values).index_add(1, a, values.index_select(1, b))
        total = total.index_add(1, b, values.index_select(1, a))
        return total / self.degree.clamp(min=1)[:, None]
