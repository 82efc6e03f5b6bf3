"""The hemisphere template: half an octahedron, subdivided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raylib.geometry.mesh import edges_of_sides


@dataclass(frozen=True)
class Subdivision:
    """A mesh made by splitting every edge at its middle several times; each level's vertices come first in the next.

    Attributes:
        verts: positions on the unit sphere.
        faces: triangles of the finest level, counter-clockwise seen from outside.
        level_sizes: number of vertices of each level, coarsest first; a level is `verts[: level_sizes[i]]`.
        level_faces: triangles of each level, coarsest first.
        parents: the two ends of the edge whose middle a vertex is; a vertex of the coarsest level names itself twice.
    """

    verts: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    level_sizes: tuple[int, ...]
    level_faces: tuple[Int[Tensor, "_ 3"], ...]
    parents: Int[Tensor, "v 2"]


@lru_cache(maxsize=8)
def hemisphere(levels: int = 5) -> Subdivision:
    """Returns the paper's template: the upper half of an octahedron, subdivided and pushed to the unit sphere.

    The pole points to +z and the four first vertices lie on the rim at +x, +y, -x and -y, so that the planes x = 0
    and y = 0 run along edges. Five levels give 2113 vertices, 4096 triangles and a rim of 128 edges.

    Args:
        levels: number of subdivisions; `2 * 4^levels + 2 * 2^levels + 1` vertices.
    """
    verts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    parents = torch.arange(5)[:, None].expand(5, 2)
    sizes, level_faces = [5], [faces]
    for _ in range(levels):
        edges, edge_of_side = edges_of_sides(faces)
        middle = torch.nn.functional.normalize(verts[edges].sum(1), dim=1)
        m = edge_of_side + len(verts)  # vertices in the middle of the sides ab, bc, ca
        a, b, c = faces.unbind(1)
        ab, bc, ca = m.unbind(1)
        quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        faces = torch.stack([torch.stack(q, dim=1) for q in quarters], dim=1).reshape(-1, 3)
        verts, parents = torch.cat([verts, middle]), torch.cat([parents, edges])
        sizes.append(len(verts))
        level_faces.append(faces)
    return Subdivision(verts.float(), faces, tuple(sizes), tuple(level_faces), parents.contiguous())
