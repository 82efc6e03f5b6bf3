"""Template topologies, adjacency and normals of triangle meshes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TemplateMesh:
    """One face as a triangle mesh, in canonical face space (see `camera`).

    Attributes:
        verts: positions, millimetres.
        faces: triangles, counter-clockwise seen from outside.
        uv: texture coordinates of each vertex, (0, 0) at the bottom left, or None.
        colors: linear RGB of each vertex in [0, 1], or None.
    """

    verts: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "v 2"] | None = None
    colors: Float[Tensor, "v 3"] | None = None


def edges_of_sides(faces: Int[Tensor, "f 3"]) -> tuple[Int[Tensor, "e 2"], Int[Tensor, "f 3"]]:
    """Returns each edge once, and the edge that each side of each triangle is."""
    sides = torch.stack([faces, faces.roll(-1, dims=1)], dim=2).sort(dim=2).values
    edges, index = torch.unique(sides.reshape(-1, 2), dim=0, return_inverse=True)
    return edges, index.reshape(-1, 3)


def unique_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Returns each edge once, the smaller vertex first, in lexicographic order."""
    return edges_of_sides(faces)[0]


def boundary_edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Returns the edges that only one triangle has, directed as that triangle runs through them."""
    _, edge_of_side = edges_of_sides(faces)
    count = torch.bincount(edge_of_side.flatten())
    directed = torch.stack([faces, faces.roll(-1, dims=1)], dim=2)
    return directed[count[edge_of_side] == 1]


def vertex_adjacency(faces: Int[Tensor, "f 3"], num_verts: int) -> Tensor:
    """Returns the sparse CSR matrix (v, v) with a one for every pair of vertices that an edge joins."""
    edges = unique_edges(faces)
    both = torch.cat([edges, edges.flip(1)]).T
    ones = torch.ones(both.shape[1])
    return torch.sparse_coo_tensor(both, ones, (num_verts, num_verts)).coalesce().to_sparse_csr()


def face_areas_normals(
    verts: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]
) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b f 3"]]:
    """Returns the triangles' areas (squared units of `verts`) and unit normals (zero where the area is zero)."""
    a, b, c = verts[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)
    return cross.norm(dim=2) / 2, torch.nn.functional.normalize(cross, dim=2)


def vertex_normals(verts: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b v 3"]:
    """Returns unit normals of the vertices: the mean of their triangles' normals weighted by area."""
    a, b, c = verts[:, faces].unbind(2)
    cross = torch.linalg.cross(b - a, c - a)  # twice the area times the normal: the weight is in its length
    total = torch.zeros_like(verts)
    for corner in range(3):
        total = total.index_add(1, faces[:, corner], cross)
    return torch.nn.functional.normalize(total, dim=2)
