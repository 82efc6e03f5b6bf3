"""Losses on meshes and pictures: pure functions, one term each, averaged over the batch.

Two families. The sums of the paper's equations 1 to 4 follow their definitions (Wang et al., "Pixel2Mesh", ECCV 2018,
use the same): they grow with the number of vertices and the square of the unit. The means are PyTorch3D's, which the
paper's training really used: equal values, so that the paper's weights apply.

`p` are the vertices of the predicted mesh, `N(p)` the vertices that an edge joins to p.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from raylib.geometry.topology import Topology


def nearest(points: Float[Tensor, "b n 3"], targets: Float[Tensor, "b m 3"]) -> Int[Tensor, "b n"]:
    """Returns the index of the nearest target of each point, without a table of all distances.

    On the CPU a k-d tree, elsewhere PyTorch3D's kernel.
    """
    if points.device.type == "cpu":
        pairs = zip(points.detach().numpy(), targets.detach().numpy(), strict=True)
        return torch.stack([torch.from_numpy(cKDTree(b).query(a)[1]) for a, b in pairs])
    from pytorch3d.ops import knn_points

    return knn_points(points.detach(), targets.detach()).idx[..., 0]


def _along_edges(verts: Float[Tensor, "b v 3"], topology: Topology) -> Float[Tensor, "b e 3"]:
    """Returns each edge as a vector."""
    # index_select, here and below: the backward pass of plain indexing is several times slower on the CPU.
    a, b = topology.edges.unbind(1)
    return verts.index_select(1, a) - verts.index_select(1, b)


def _take(values: Float[Tensor, "b m 3"], index: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
    return values.gather(1, index[..., None].expand(-1, -1, 3))


def chamfer(
    points: Float[Tensor, "b n 3"],
    targets: Float[Tensor, "b m 3"],
    reduction: Literal["sum", "mean"] = "mean",
) -> Float[Tensor, ""]:
    """Returns the squared distances of points to their nearest targets plus those of targets to their nearest points.

    "sum" is the paper's equation 1, `sum_p min_q |p - q|^2 + sum_q min_p |p - q|^2`; "mean" divides each sum by its
    number of points, as PyTorch3D does.
    """
    there = (points - _take(targets, nearest(points, targets))).square().sum(2)
    back = (targets - _take(points, nearest(targets, points))).square().sum(2)
    if reduction == "sum":
        return (there.sum(1) + back.sum(1)).mean()
    return there.mean() + back.mean()


def normal_sum(
    verts: Float[Tensor, "b v 3"],
    topology: Topology,
    targets: Float[Tensor, "b m 3"],
    target_normals: Float[Tensor, "b m 3"],
) -> Float[Tensor, ""]:
    """Returns equation 2: `sum_p sum_{k in N(p)} <p - k, n_q>^2`, q the target nearest to p, n_q its unit normal.

    Zero where every edge at p is at right angles to the normal of the surface that p should lie on.
    """
    normals = _take(target_normals, nearest(verts, targets))
    a, b = topology.edges.unbind(1)
    along = _along_edges(verts, topology)
    first, second = (along * normals[:, a]).sum(2), (along * normals[:, b]).sum(2)
    return (first.square() + second.square()).sum(1).mean()


def laplacian_sum(
    verts: Float[Tensor, "b v 3"], before: Float[Tensor, "b v 3"], topology: Topology
) -> Float[Tensor, ""]:
    """Returns equation 3: `sum_p |delta'_p - delta_p|^2`, delta the vertex minus the mean of its neighbours.

    Zero for a mesh that moved as a whole, whatever its shape: it keeps neighbours moving alike.

    Args:
        verts: the deformed mesh (delta').
        before: the mesh before the deformation (delta).
        topology: of both.
    """
    moved = verts - before
    return (moved - topology.neighbor_mean(moved)).square().sum((1, 2)).mean()


def edge_sum(verts: Float[Tensor, "b v 3"], topology: Topology) -> Float[Tensor, ""]:
    """Returns equation 4: `sum_p sum_{k in N(p)} |p - k|^2`; every edge counts from both its ends."""
    return 2 * _along_edges(verts, topology).square().sum((1, 2)).mean()


def edge_mean(verts: Float[Tensor, "b v 3"], topology: Topology, length: float = 0.0) -> Float[Tensor, ""]:
    """Returns the mean squared difference of the edges' lengths from `length` (PyTorch3D's `mesh_edge_loss`)."""
    return (_along_edges(verts, topology).norm(dim=2) - length).square().mean()


def normal_consistency(verts: Float[Tensor, "b v 3"], topology: Topology) -> Float[Tensor, ""]:
    """Returns the mean of one minus the cosine between faces that share an edge (PyTorch3D's loss of this name)."""
    a, b, c = (verts.index_select(1, corner) for corner in topology.faces.unbind(1))
    normals = torch.linalg.cross(b - a, c - a)
    first, second = (normals.index_select(1, side) for side in topology.face_pairs.unbind(1))
    return (1 - torch.cosine_similarity(first, second, dim=2)).mean()


def uniform_laplacian(verts: Float[Tensor, "b v 3"], topology: Topology) -> Float[Tensor, ""]:
    """Returns the mean distance of vertices from the mean of their neighbours (PyTorch3D's uniform smoothing)."""
    return (verts - topology.neighbor_mean(verts)).norm(dim=2).mean()


def masked_mse(
    image: Float[Tensor, "b h w c"], target: Float[Tensor, "b h w c"], mask: Float[Tensor, "b h w"] | None = None
) -> Float[Tensor, ""]:
    """Returns the mean squared difference of pictures; with a mask, of both after the mask has blackened them.

    The mean runs over all pixels, as in the paper, whose masked pixels count as equal.
    """
    difference = image - target
    if mask is not None:
        difference = difference * mask[..., None]
    return difference.square().mean()
