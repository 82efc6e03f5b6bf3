"""Relaxes a template over a source surface until its triangles are well shaped and as large as wished.

Vertices live on the source: free ones in a triangle, moved by walking over the surface; guided ones at an arc length
of a curve (rim, midline, the edge of a lid or lip). A flat map of the source to the half disc tells whether the
template still lies on it without folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chart:
    """A source surface with its flat map.

    Attributes:
        verts: positions, millimetres.
        faces: triangles.
        flat: positions of the vertices in the plane; no triangle is turned over.
        across: for each triangle the one across the side opposite each corner, -1 at the boundary.
    """

    verts: Floats
    faces: Ints
    flat: Floats
    across: Ints

    def locate(self, points: Floats) -> tuple[Ints, Floats]:
        """Returns triangle and barycentric coordinates of points of the plane, the nearest triangle's outside."""
        return _locate(self.flat, self.faces, points)

    def at(self, values: Floats, triangle: Ints, bary: Floats) -> Floats:
        """Returns values given at the source's vertices, interpolated."""
        result: Floats = (values[self.faces[triangle]] * bary[:, :, None]).sum(1)
        return result


@dataclass(frozen=True)
class Curve:
    """A polyline on the source, finely sampled.

    Attributes:
        points: positions, millimetres.
        flat: the same points in the flat map.
        closed: whether the last point is followed by the first; it is then given twice.
    """

    points: Floats
    flat: Floats
    closed: bool = False

    @property
    def arc(self) -> Floats:
        """Arc length at each point, millimetres."""
        return np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))]

    def at(self, s: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns positions, flat positions and unit tangents at arc lengths."""
        arc = self.arc
        s = np.mod(s, arc[-1]) if self.closed else np.clip(s, 0, arc[-1])
        i = np.clip(np.searchsorted(arc, s, side="right") - 1, 0, len(arc) - 2)
        step = arc[i + 1] - arc[i]
        t = ((s - arc[i]) / step)[:, None]
        d = self.points[i + 1] - self.points[i]
        return self.points[i] + t * d, self.flat[i] + t * (self.flat[i + 1] - self.flat[i]), d / step[:, None]

    def nearest(self, points: Floats) -> Floats:
        """Returns the arc lengths of the curve's points nearest to `points` of the flat map.

        There, unlike in space, the two lips are apart.
        """
        a, d = self.flat[:-1], np.diff(self.flat, axis=0)
        t = ((points[:, None] - a) * d).sum(2) / (d * d).sum(1)
        t = np.clip(t, 0, 1)
        gap = np.linalg.norm(points[:, None] - (a + t[..., None] * d), axis=2)
        i = gap.argmin(1)
        arc = self.arc
        result: Floats = arc[i] + t[np.arange(len(points)), i] * (arc[i + 1] - arc[i])
        return result


@dataclass
class Placement:
    """Where the template's vertices are; changed in place by `relax`.

    Attributes:
        curve: number of the curve that guides each vertex, -1 for free vertices.
        arc: arc length of the guided vertices.
        fixed: vertices that stay.
        triangle: source triangle of the free vertices.
        bary: barycentric coordinates in it.
    """

    curve: Ints
    arc: Floats
    fixed: NDArray[np.bool_]
    triangle: Ints
    bary: Floats

    def copy(self) -> Placement:
        """Returns an independent copy."""
        return Placement(*(a.copy() for a in vars(self).values()))


def flatten(verts: Floats, faces: Ints, midline: Ints, rim: Ints) -> Chart:
    """Returns the chart of a half disc onto the right half of the unit disc, harmonic with mean value weights.

    Positive weights and a convex image of the whole face make the map one to one (Tutte 1963, Floater 2003). The
    midline is sent to x = 0, free along it, as the mirrored half would leave it.
    """
    n = len(verts)
    rows, cols, vals = [], [], []
    for k in range(3):
        i, j, l = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        a, b = verts[j] - verts[i], verts[l] - verts[i]
        la, lb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        cos = np.clip((a * b).sum(1) / (la * lb), -1, 1)
        tan = np.sqrt((1 - cos) / (1 + cos))  # tangent of half the angle at i
        rows += [i, i]
        cols += [j, l]
        vals += [tan / la, tan / lb]
    weights = sp.csr_matrix((np.concatenate(vals), (np.concatenate(rows), np.concatenate(cols))), shape=(n, n))
    # At the midline the mirror image doubles every neighbour off it; those on it have a triangle on either side too.
    system = (sp.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()
    arc = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(verts[rim], axis=0), axis=1))]
    angle = np.pi / 2 - np.pi * arc / arc[-1]
    flat = np.zeros((n, 2))
    flat[rim] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    flat[rim[[0, -1]], 0] = 0.0
    for axis, held in ((0, np.union1d(rim, midline)), (1, np.unique(rim))):
        free = np.setdiff1d(np.arange(n), held)
        b = -(system[free][:, held] @ flat[held, axis])
        flat[free, axis] = scipy.sparse.linalg.spsolve(system[free][:, free].tocsc(), b)
    return Chart(verts, faces, flat, _across(faces))


def _across(faces: Ints) -> Ints:
    side: dict[tuple[int, int], int] = {}
    for f, (a, b, c) in enumerate(faces.tolist()):
        side.update({(a, b): f, (b, c): f, (c, a): f})
    return np.array(
        [[side.get((c, b), -1), side.get((a, c), -1), side.get((b, a), -1)] for a, b, c in faces.tolist()]
    )


@njit(cache=True)
def _locate(flat, faces, points):  # type: ignore[no-untyped-def]
    triangle = np.zeros(len(points), np.int64)
    bary = np.zeros((len(points), 3))
    for p in range(len(points)):
        best = -1e300
        for f in range(len(faces)):
            a, b, c = flat[faces[f, 0]], flat[faces[f, 1]], flat[faces[f, 2]]
            area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            u = ((b[0] - points[p, 0]) * (c[1] - points[p, 1]) - (b[1] - points[p, 1]) * (c[0] - points[p, 0])) / area
            v = ((c[0] - points[p, 0]) * (a[1] - points[p, 1]) - (c[1] - points[p, 1]) * (a[0] - points[p, 0])) / area
            low = min(u, v, 1 - u - v)
            if low < 0:  # outside: compare distances, not barycentric coordinates of triangles of any size
                low *= np.sqrt(abs(area))
            if low > best:
                best = low
                triangle[p] = f
                u, v = max(u, 0.0), max(v, 0.0)
                w = max(1 - u - v, 0.0)
                bary[p, 0], bary[p, 1], bary[p, 2] = u / (u + v + w), v / (u + v + w), w / (u + v + w)
                if low >= 0:
                    break
    return triangle, bary


@njit(cache=True)
def _walk(verts, faces, across, triangle, bary, step):  # type: ignore[no-untyped-def]
    """Moves each point by its step, straight on over the triangles; stops at the boundary. In place."""
    for p in range(len(triangle)):
        f = triangle[p]
        b = bary[p].copy()
        d = step[p].copy()
        for _ in range(100):
            e1 = verts[faces[f, 1]] - verts[faces[f, 0]]
            e2 = verts[faces[f, 2]] - verts[faces[f, 0]]
            n = np.cross(e1, e2)
            n2 = (n * n).sum()
            length = np.sqrt((d * d).sum())
            d = d - n * ((d * n).sum() / n2)
            flat_length = np.sqrt((d * d).sum())
            if length < 1e-12 or flat_length < 1e-9 * length:
                break
            d2 = (np.cross(e1, d) * n).sum() / n2
            d1 = (np.cross(d, e2) * n).sum() / n2
            rate = np.array([-d1 - d2, d1, d2])
            t, k = 1.0, -1
            for i in range(3):
                if rate[i] < 0 and -b[i] / rate[i] < t:
                    t, k = max(-b[i] / rate[i], 0.0), i
            b = np.maximum(b + t * rate, 0.0)
            b /= b.sum()
            if k < 0:
                break
            g = across[f, k]
            if g < 0:
                break
            d = d * (1 - t)
            c = np.zeros(3)
            for i in range(3):
                for j in range(3):
                    if faces[g, j] == faces[f, i]:
                        c[j] = b[i]
            # A step that would lead straight back is the end of the way: the point lies in a valley.
            f, b = g, c
        triangle[p] = f
        bary[p] = b


def positions(chart: Chart, curves: list[Curve], place: Placement) -> tuple[Floats, Floats, Floats]:
    """Returns positions, flat positions and, of the guided vertices, the curve's tangent."""
    x = chart.at(chart.verts, place.triangle, place.bary)
    u = chart.at(chart.flat, place.triangle, place.bary)
    tangent = np.zeros_like(x)
    for c, curve in enumerate(curves):
        on = np.flatnonzero(place.curve == c)
        if len(on):
            x[on], u[on], tangent[on] = curve.at(place.arc[on])
    return x, u, tangent


def _flat_areas(u: Floats, faces: Ints) -> Floats:
    a, b, c = u[faces[:, 0]], u[faces[:, 1]], u[faces[:, 2]]
    result: Floats = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return result


def relax(
    chart: Chart,
    curves: list[Curve],
    faces: Ints,
    place: Placement,
    size_mm: Floats,
    iterations: int,
    rate: tuple[float, float] = (0.2, 0.01),
    pull_to: tuple[Ints, Floats] | None = None,
    pull: tuple[float, float] = (0.0, 0.0),
) -> Placement:
    """Returns a placement of lower energy: the mean symmetric Dirichlet energy of the template's triangles.

    Each triangle is compared with an equilateral one of the wished size, up to one common factor. Steps are Adam's
    with one scale a vertex; vertices whose triangles would turn over in the flat map go back.

    Args:
        chart: the source surface.
        curves: what guides the guided vertices.
        faces: the template's triangles.
        place: where the template's vertices start.
        size_mm: wished edge length at each vertex of the source.
        iterations: number of steps.
        rate: first and last length of a step, in wished edge lengths.
        pull_to: vertices and the positions they are drawn to.
        pull: first and last weight of that.
    """
    place = place.copy()
    tri = torch.from_numpy(faces)
    free = np.flatnonzero((place.curve < 0) & ~place.fixed)
    guided = np.flatnonzero((place.curve >= 0) & ~place.fixed)
    mean = np.zeros((len(place.curve), 3))
    square = np.zeros(len(place.curve))
    x, u, tangent = positions(chart, curves, place)
    for it in range(iterations):
        h = size_at(chart, curves, place, size_mm)
        gradient = _gradient(x, tri, h, pull_to, _between(pull, it / iterations))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * (gradient**2).sum(1)
        bias = (1 - 0.9 ** (it + 1)) / np.sqrt(1 - 0.98 ** (it + 1))
        step = (
            -mean / (np.sqrt(square)[:, None] + 1e-12) / bias
            if it
            else -gradient / (np.sqrt(square)[:, None] + 1e-12)
        )
        step = step * (_between(rate, it / iterations) * h)[:, None]
        before = place.copy()
        t, b = place.triangle[free], place.bary[free]
        _walk(chart.verts, chart.faces, chart.across, t, b, step[free])
        place.triangle[free], place.bary[free] = t, b
        place.arc[guided] += (step[guided] * tangent[guided]).sum(1)
        for attempt in range(6):
            x, u, tangent = positions(chart, curves, place)
            bad = np.flatnonzero(_flat_areas(u, faces) <= 0)
            if not len(bad):
                break
            back = np.unique(faces[bad]) if attempt < 5 else np.arange(len(x))
            place.triangle[back], place.bary[back] = before.triangle[back], before.bary[back]
            place.arc[back] = before.arc[back]
            mean[back] = 0
        else:
            x, u, tangent = positions(chart, curves, place)
    return place


def size_at(chart: Chart, curves: list[Curve], place: Placement, size_mm: Floats) -> Floats:
    """Returns the wished edge length at each of the template's vertices."""
    guided = place.curve >= 0
    triangle, bary = place.triangle.copy(), place.bary.copy()
    if guided.any():
        tree_points = positions(chart, curves, place)[0][guided]
        triangle[guided], bary[guided] = _nearest_vertex(chart, tree_points)
    return chart.at(size_mm[:, None], triangle, bary)[:, 0]


_TREES: dict[int, tuple[object, Ints]] = {}


def _nearest_vertex(chart: Chart, points: Floats) -> tuple[Ints, Floats]:
    from scipy.spatial import cKDTree

    key = id(chart)
    if key not in _TREES:
        first = np.zeros(len(chart.verts), np.int64)
        first[chart.faces] = np.arange(len(chart.faces))[:, None]
        _TREES[key] = (cKDTree(chart.verts), first)
    tree, first = _TREES[key]
    v = tree.query(points)[1]  # type: ignore[attr-defined]
    return first[v], (chart.faces[first[v]] == v[:, None]).astype(float)


def _between(ends: tuple[float, float], t: float) -> float:
    if ends[0] <= 0 or ends[1] <= 0:
        return ends[0] + (ends[1] - ends[0]) * t
    return float(ends[0] * (ends[1] / ends[0]) ** t)


def _gradient(x: Floats, tri: torch.Tensor, h: Floats, pull_to: tuple[Ints, Floats] | None, weight: float) -> Floats:
    pos = torch.from_numpy(x).requires_grad_()
    a, b, c = pos[tri].unbind(1)
    size = torch.from_numpy(h)[tri].mean(1)
    squares = ((b - a) ** 2).sum(1) + ((c - b) ** 2).sum(1) + ((a - c) ** 2).sum(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1) / 2
    ref = size**2 * (3**0.5 / 4)
    scale = (area.detach() / ref).log().mean().exp()  # one common factor: the budget of vertices is given
    det = area / (ref * scale)
    energy = (2 / 3 * squares / (size**2 * scale) * (1 + 1 / (det**2 + 1e-6))).sum()
    if pull_to is not None:
        v, target = torch.from_numpy(pull_to[0]), torch.from_numpy(pull_to[1])
        near = torch.from_numpy(h)[v]
        energy = energy + weight * (((pos[v] - target) ** 2).sum(1) / near**2).sum()
    (gradient,) = torch.autograd.grad(energy, pos)
    result: Floats = gradient.numpy() * h[:, None]
    return result
