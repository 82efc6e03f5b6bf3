"""How far a reconstructed face lies from the true one: point-to-triangle distances after alignment.

The protocol is that of the NoW benchmark (Sanyal et al., CVPR 2019): the reconstruction is laid onto the scan by a
similarity from seven landmarks, refined by iterated closest points over the face, and every scan point within
95 mm of the nose tip takes its distance to the nearest point of the reconstructed surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raylib.canonical import similarity

Array = NDArray[Any]

ALIGNMENT_LANDMARKS = (36, 39, 42, 45, 33, 48, 54)
"""Eye corners, base of the nose and mouth corners among the 68 landmarks."""
NOSE_TIP = 30
FACE_RADIUS_MM = 95.0

_ICP_STEPS = 25
_ICP_POINTS = 1200


@dataclass(frozen=True)
class ScanError:
    """Distances of a scan's points from a reconstruction, millimetres.

    Attributes:
        distances: one for each scan point of the face.
        scale: factor by which the alignment stretched the reconstruction.
        R: rotation of the alignment `scale * R @ vertex + T`.
        T: its translation.
    """

    distances: Float[ndarray, " n"]
    scale: float
    R: Float[ndarray, "3 3"]
    T: Float[ndarray, " 3"]

    @property
    def median(self) -> float:
        """Median distance."""
        return float(np.median(self.distances))

    @property
    def mean(self) -> float:
        """Mean distance."""
        return float(self.distances.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the distances."""
        return float(self.distances.std())


class MeshSurface:
    """A triangle mesh prepared for closest-point queries.

    Args:
        verts: vertices.
        faces: triangles.
    """

    def __init__(self, verts: Float[ndarray, "v 3"], faces: Int[ndarray, "f 3"]):
        triangles: Array = np.asarray(verts, dtype=np.float64)[faces]
        centroids = triangles.mean(1)
        self._triangles, self._tree = triangles, cKDTree(centroids)
        # No point of a triangle is farther from its centroid than its farthest corner. Triangles of about the same
        # reach share a search tree, so that a few large ones do not widen the search among the many small ones.
        reach = np.linalg.norm(triangles - centroids[:, None], axis=2).max(1)
        octave = np.floor(np.log2(np.maximum(reach, 1e-12)))
        self._groups: list[tuple[Array, Any, float]] = []
        for size in np.unique(octave):
            members = octave == size
            self._groups.append((triangles[members], cKDTree(centroids[members]), float(reach[members].max())))

    def nearby(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Returns about the closest point of the surface for each point: of the triangles with the nearest centroids.

        Many times faster than `closest`, and enough to iterate on.
        """
        k = min(6, len(self._triangles))
        index = self._tree.query(points, k=[*range(1, k + 1)])[1]
        return _nearest(closest_on_triangles(points[:, None], self._triangles[index]), points)[0]

    def closest(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Returns the closest point of the surface for each point, found by widening the search until it is sure."""
        best = self.nearby(points)
        best_distance = np.linalg.norm(best - points, axis=1)
        for triangles, tree, reach in self._groups:
            pending, k = np.arange(len(points)), 8
            while len(pending):
                k = min(k, len(triangles))
                far, index = tree.query(points[pending], k=[*range(1, k + 1)])
                # A group whose nearest centroid is too far away cannot hold the closest point.
                hopeful = far[:, 0] - reach < best_distance[pending]
                pending, far, index = pending[hopeful], far[hopeful], index[hopeful]
                found, distance = _nearest(
                    closest_on_triangles(points[pending, None], triangles[index]), points[pending]
                )
                nearer = distance < best_distance[pending]
                best[pending[nearer]], best_distance[pending[nearer]] = found[nearer], distance[nearer]
                if k == len(triangles):
                    break
                pending, k = pending[best_distance[pending] > far[:, -1] - reach], 3 * k
        return best

    def distance(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
        """Returns the distance of each point from the surface."""
        return np.asarray(np.linalg.norm(self.closest(points) - points, axis=1))


def _nearest(candidates: Array, points: Array) -> tuple[Array, Array]:
    """Returns the nearest of each point's candidates (n, k, 3) and its distance."""
    distance = np.linalg.norm(candidates - points[:, None], axis=2)
    rows, chosen = np.arange(len(points)), distance.argmin(1)
    return candidates[rows, chosen], distance[rows, chosen]


def closest_on_triangles(
    points: Float[ndarray, "*#b 3"], triangles: Float[ndarray, "*b 3 3"]
) -> Float[ndarray, "*b 3"]:
    """Returns the point of each triangle that is closest to its point.

    The foot of the perpendicular where it falls inside, otherwise the nearest point of the three edges.
    """
    shape = np.broadcast_shapes(points.shape, (*triangles.shape[:-2], 3))
    points, triangles = np.broadcast_to(points, shape), np.broadcast_to(triangles, (*shape[:-1], 3, 3))
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    normal = np.cross(b - a, c - a)
    area2 = np.maximum((normal**2).sum(-1, keepdims=True), 1e-30)
    foot = points - normal * ((points - a) * normal).sum(-1, keepdims=True) / area2
    best, best_d2 = np.empty(shape), np.full(shape[:-1], np.inf)
    inside = np.ones(shape[:-1], dtype=bool)
    for p, q in ((a, b), (b, c), (c, a)):
        edge = q - p
        inside &= (np.cross(edge, foot - p) * normal).sum(-1) >= 0
        t = ((points - p) * edge).sum(-1, keepdims=True) / np.maximum((edge**2).sum(-1, keepdims=True), 1e-30)
        on_edge = p + np.clip(t, 0.0, 1.0) * edge
        d2 = ((on_edge - points) ** 2).sum(-1)
        nearer = d2 < best_d2
        best[nearer], best_d2[nearer] = on_edge[nearer], d2[nearer]
    flat = (normal**2).sum(-1) <= 1e-30  # a degenerate triangle is its edges
    inside &= ~flat
    best[inside] = foot[inside]
    return best


def _align(surface: MeshSurface, landmarks: Array, scan: Array, scan_landmarks: Array) -> tuple[float, Array, Array]:
    scale, R, T = similarity(landmarks, scan_landmarks)
    sample = scan[:: max(1, len(scan) // _ICP_POINTS)]
    for _ in range(_ICP_STEPS):
        # The scan moves into the mesh's frame, so that the search tree is built once.
        closest = surface.nearby((sample - T) @ R / scale)
        scale, R, T = similarity(closest, sample)
    return scale, R, T


def scan_error(
    verts: Float[ndarray, "v 3"],
    faces: Int[ndarray, "f 3"],
    landmarks: Float[ndarray, "68 3"],
    scan: Float[ndarray, "n 3"],
    scan_landmarks: Float[ndarray, "68 3"],
) -> ScanError:
    """Returns the distances of a scan's face from a reconstruction that was laid onto it.

    Args:
        verts: the reconstruction's vertices, any unit.
        faces: its triangles.
        landmarks: its 68 landmarks; only `ALIGNMENT_LANDMARKS` are read.
        scan: the scan's points, millimetres.
        scan_landmarks: the scan's 68 landmarks; only `ALIGNMENT_LANDMARKS` and the nose tip are read.
    """
    chosen = list(ALIGNMENT_LANDMARKS)
    face = scan[np.linalg.norm(scan - scan_landmarks[NOSE_TIP], axis=1) <= FACE_RADIUS_MM]
    surface = MeshSurface(verts, faces)
    scale, R, T = _align(surface, landmarks[chosen], face, scan_landmarks[chosen])
    return ScanError(scale * surface.distance((face - T) @ R / scale), scale, R, T)
