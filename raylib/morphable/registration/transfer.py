"""The identities of any linear face model in terms of the shipped prior's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raylib.geometry.similarity import similarity
from raylib.morphable.model import LinearFaceModel

Floats = NDArray[np.float64]

_NEAR_MM = 4.0
"""Prior vertices this near the other model's surface carry over; lids and the mouth's pocket may lie further."""
_RIDGES = (1e-5, 7.5e-3)
"""Weight of small coefficients against squared millimetres a vertex: nearly none where the prior says all that the
model says, else what errors of half a millimetre that stretch over some twenty vertices call for."""
_SAME_PEOPLE_MM = 0.2
_SAME_MEAN_MM = 0.3


@dataclass(frozen=True)
class IdentityMap:
    """The prior's coefficients as an affine function of another model's: `offset + c @ matrix`.

    Attributes:
        matrix: (k, 100).
        offset: (100,) of the other model's mean face.
        residual_mm: root mean square over vertices of what the prior cannot say of one standard deviation.
    """

    matrix: Floats
    offset: Floats
    residual_mm: float


def identity_map(prior: LinearFaceModel, mean: Floats, faces: NDArray[np.int64], identity: Any) -> IdentityMap:
    """Returns the least-squares map from a model's identity coefficients to the prior's.

    Each prior vertex takes the nearest point of the model's mean face and moves with it.

    Args:
        prior: the shipped prior.
        mean: (v, 3) the other model's mean face in canonical space.
        faces: (f, 3) its triangles.
        identity: (k, v, 3) its modes, one standard deviation each.
    """
    own = prior.mean.double().numpy()
    triangle, bary, distance = nearest_on_mesh(own, mean, faces)
    good = np.flatnonzero((distance < _NEAR_MM) & (bary > 0).all(1))
    corners, bary = faces[triangle[good]], bary[good]
    near = np.einsum("nk,nkc->nc", bary, mean[corners])
    moved = np.einsum("nk,mnkc->mnc", bary, np.asarray(identity)[:, corners].astype(float))
    basis = prior.identity.double().numpy()[:, good].reshape(len(prior.identity), -1)
    flat = moved.reshape(len(moved), -1)
    for ridge in _RIDGES:
        gram = basis @ basis.T + ridge * np.eye(len(basis)) * len(good)
        solve = np.linalg.solve(gram, basis)
        matrix = flat @ solve.T
        residual = float(np.sqrt(((flat - matrix @ basis) ** 2).sum() / len(good)))
        if residual < _SAME_PEOPLE_MM:
            break
    # What remains of the difference of the means after a similarity is shape; position and size are not.
    scale, R, T = similarity(near, own[good])
    difference = (scale * near @ R.T + T - own[good]).ravel()
    offset = solve @ difference if np.sqrt((difference**2).mean()) > _SAME_MEAN_MM else np.zeros(len(basis))
    return IdentityMap(matrix, offset, residual)


def nearest_on_mesh(
    points: Floats, verts: Floats, faces: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Returns the nearest triangle of each point, the barycentric coordinates on it, and the distance.

    Looks among the triangles with the nearest centres, which suffices where triangles are small.
    """
    corners = verts[faces]
    candidates = np.asarray(cKDTree(corners.mean(1)).query(points, k=min(24, len(faces)))[1])
    best = np.full(len(points), np.inf)
    near, which = np.zeros_like(points), np.zeros(len(points), np.int64)
    for k in range(candidates.shape[1]):
        at = trimesh.triangles.closest_point(corners[candidates[:, k]], points)
        d = np.linalg.norm(at - points, axis=1)
        better = d < best
        best[better], near[better], which[better] = d[better], at[better], candidates[better, k]
    return which, trimesh.triangles.points_to_barycentric(corners[which], near), best
