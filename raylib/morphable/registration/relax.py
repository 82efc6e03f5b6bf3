"""Relaxes a template over a source surface until its triangles are well shaped and as large as wished.

Vertices live on the source: free ones in a triangle, moved by walking over the surface; guided ones at an arc length
of a curve (rim, midline, the edge of a lid or lip). A flat map of the source to the half disc tells whether the
template still lies on it without folds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raylib.morphable.registration.walk_kernels import locate, walk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NORMAL_MM = 4.0
"""Length that a unit change of the normal counts as."""

FLAT_WEIGHT = 0.05
"""Weight of the triangles' shape in the flat map (Hormann and Greiner 2000, MIPS): it grows before one turns over."""

SAMPLE_MM = 0.1
"""Spacing of the points of a curve."""


@dataclass(frozen=True)
class Chart:
    """A source surface with its flat map.

    Attributes:
        verts: positions, millimetres.
        faces: triangles.
        flat: positions of the vertices in the plane; no triangle is turned over.
        across: for each triangle the one across the side opposite each corner, -1 at the boundary.
        embedding: positions, smoothed unit normals times `NORMAL_MM`, and `flat`. Triangles equilateral in the
            first six are small across creases and long beside them (Levy and Bonneel 2013, Variational anisotropic
            surface meshing).
        size_mm: wished edge length at each vertex.
    """

    verts: Floats
    faces: Ints
    flat: Floats
    across: Ints
    embedding: Floats
    size_mm: Floats

    @cached_property
    def pull_back(self) -> Floats:
        """For each triangle the matrix (8, 3) that takes steps in space to steps of the embedding."""
        p, y = self.verts[self.faces], self.embedding[self.faces]
        e = p[:, 1:] - p[:, :1]
        frame = np.concatenate([e, np.cross(e[:, 0], e[:, 1])[:, None]], axis=1)
        d = np.concatenate([y[:, 1:] - y[:, :1], np.zeros_like(y[:, :1])], axis=1)
        result: Floats = np.linalg.solve(frame, d).transpose(0, 2, 1)
        return result

    def locate(self, points: Floats) -> tuple[Ints, Floats]:
        """Returns triangle and barycentric coordinates of points of the plane, the nearest triangle's outside."""
        return locate(self.flat, self.faces, points)

    def at(self, values: Floats, triangle: Ints, bary: Floats) -> Floats:
        """Returns values given at the source's vertices, interpolated."""
        result: Floats = (values[self.faces[triangle]] * bary[:, :, None]).sum(1)
        return result

    def offset(self, curve: Curve, distance_mm: float) -> Curve:
        """Returns the closed curve that runs so far to the right of a closed curve, measured over the surface."""
        s = np.arange(0, curve.arc[-1], 0.25)
        _, here, rate = curve.at(s)
        triangle, bary = self.locate(here[:, 6:])
        a, b, c = self.verts[self.faces[triangle]].transpose(1, 0, 2)
        sideways = np.cross(rate[:, :3], np.cross(b - a, c - a))
        sideways /= np.linalg.norm(sideways, axis=1, keepdims=True)
        tangent = rate[:, :3] / np.linalg.norm(rate[:, :3], axis=1, keepdims=True)
        # At a corner the offset curve is an arc: turn the direction there in steps.
        corners = np.flatnonzero((tangent * np.roll(tangent, -1, axis=0)).sum(1) < 0.87)
        t = np.linspace(0, 1, 8)[:, None]
        arcs = [(1 - t) * sideways[i] + t * sideways[(i + 1) % len(s)] for i in corners]
        order = np.r_[np.arange(len(s)), np.repeat(corners + 0.5, len(t))].argsort(kind="stable")
        source = np.r_[np.arange(len(s)), np.repeat(corners, len(t))][order]
        sideways = np.concatenate([sideways, *arcs])[order]
        triangle, bary = triangle[source], bary[source]
        step = sideways * (distance_mm / np.linalg.norm(sideways, axis=1, keepdims=True))
        walk(self.verts, self.faces, self.across, triangle, bary, step)
        gap = cKDTree(curve.points).query(self.at(self.verts, triangle, bary))[0]
        moved = self.at(self.flat, triangle, bary)[gap > 0.6 * distance_mm]  # without loops where the curve bends in
        return self.along(np.concatenate([moved, moved[:1]]), closed=True)

    def along_vertices(self, ids: Ints) -> Curve:
        """Returns the curve through source vertices that edges join."""
        return Curve(self.verts[ids], self.embedding[ids], self.size_mm[ids])

    def along(self, flat: Floats, closed: bool = False) -> Curve:
        """Returns the curve on the source that is a polyline in the flat map, finely sampled."""
        t = np.linspace(0, 1, 30)[1:, None]
        dense = np.concatenate([flat[:1]] + [a + t * (b - a) for a, b in itertools.pairwise(flat)])
        triangle, bary = self.locate(dense)
        points = self.at(self.verts, triangle, bary)
        keep = [0]
        for i in range(1, len(dense)):
            if np.linalg.norm(points[i] - points[keep[-1]]) >= SAMPLE_MM:
                keep.append(i)
        if keep[-1] != len(dense) - 1:
            keep[-1] = len(dense) - 1
        size = self.at(self.size_mm[:, None], triangle, bary)[:, 0]
        return Curve(points[keep], self.at(self.embedding, triangle, bary)[keep], size[keep], closed)


@dataclass(frozen=True)
class Curve:
    """A polyline on the source, finely sampled.

    Attributes:
        points: positions, millimetres.
        embedding: the same points in the chart's embedding.
        size_mm: wished edge length there.
        closed: whether the last point is followed by the first; it is then given twice.
    """

    points: Floats
    embedding: Floats
    size_mm: Floats
    closed: bool = False

    @property
    def flat(self) -> Floats:
        """The points in the flat map."""
        return self.embedding[:, 6:]

    @cached_property
    def arc(self) -> Floats:
        """Arc length at each point, millimetres."""
        return np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))]

    @cached_property
    def _values(self) -> Floats:
        return np.concatenate([self.size_mm[:, None], self.embedding], axis=1)

    def at(self, s: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns wished sizes, embedding and its derivative at arc lengths."""
        arc = self.arc
        s = np.mod(s, arc[-1]) if self.closed else np.clip(s, 0, arc[-1])
        i = np.clip(np.searchsorted(arc, s, side="right") - 1, 0, len(arc) - 2)
        rate = (self._values[i + 1] - self._values[i]) / (arc[i + 1] - arc[i])[:, None]
        value = self._values[i] + rate * (s - arc[i])[:, None]
        return value[:, 0], value[:, 1:], rate[:, 1:]

    def nearest(self, points: Floats) -> Floats:
        """Returns the arc lengths of the curve's points nearest to `points` of the flat map.

        There, unlike in space, the two lips are apart.
        """
        a, d = self.flat[:-1], np.diff(self.flat, axis=0)
        t = np.clip(((points[:, None] - a) * d).sum(2) / (d * d).sum(1), 0, 1)
        gap = np.linalg.norm(points[:, None] - (a + t[..., None] * d), axis=2)
        i = gap.argmin(1)
        result: Floats = self.arc[i] + t[np.arange(len(points)), i] * (self.arc[i + 1] - self.arc[i])
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


def flatten(verts: Floats, faces: Ints, midline: Ints, rim: Ints, size_mm: Floats) -> Chart:
    """Returns the chart of a half disc onto the right half of the unit disc, harmonic with mean value weights.

    Positive weights and a convex image of the whole face make the map one to one (Tutte 1963, Floater 2003). The
    midline is sent to x = 0, free along it, as the mirrored half would leave it.
    """
    n = len(verts)
    rows, cols, vals = [], [], []
    for k in range(3):
        i, j, m = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        a, b = verts[j] - verts[i], verts[m] - verts[i]
        la, lb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        cos = np.clip((a * b).sum(1) / (la * lb), -1, 1)
        tan = np.sqrt((1 - cos) / (1 + cos))  # tangent of half the angle at i
        rows += [i, i]
        cols += [j, m]
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
    embedding = np.concatenate([verts, NORMAL_MM * _smooth_normals(verts, faces, midline), flat], axis=1)
    return Chart(verts, faces, flat, _across(faces), embedding, size_mm)


def _smooth_normals(verts: Floats, faces: Ints, midline: Ints, rounds: int = 4) -> Floats:
    a, b, c = verts[faces].transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    to_verts = sp.csr_matrix((np.ones(faces.size), (faces.ravel(), np.repeat(np.arange(len(faces)), 3))))
    area = np.linalg.norm(cross, axis=1)
    normals = to_verts @ cross
    for _ in range(rounds + 1):
        normals[midline, 0] = 0  # as the mirrored half makes it
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        normals = to_verts @ (area[:, None] * normals[faces].mean(1))
    normals[midline, 0] = 0
    result: Floats = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return result


def _across(faces: Ints) -> Ints:
    side: dict[tuple[int, int], int] = {}
    for f, (a, b, c) in enumerate(faces.tolist()):
        side.update({(a, b): f, (b, c): f, (c, a): f})
    return np.array(
        [[side.get((c, b), -1), side.get((a, c), -1), side.get((b, a), -1)] for a, b, c in faces.tolist()]
    )


@dataclass(frozen=True)
class Laid:
    """The template's vertices as laid on the source.

    Attributes:
        embedding: see `Chart`.
        size_mm: wished edge lengths.
        rate: derivative of the embedding by arc length, of the guided vertices.
    """

    embedding: Floats
    size_mm: Floats
    rate: Floats

    @property
    def points(self) -> Floats:
        """Positions, millimetres."""
        return self.embedding[:, :3]

    @property
    def flat(self) -> Floats:
        """Positions in the flat map."""
        return self.embedding[:, 6:]


def lay(chart: Chart, curves: list[Curve], place: Placement) -> Laid:
    """Returns where the template's vertices are."""
    values = np.concatenate([chart.size_mm[:, None], chart.embedding], axis=1)
    here = chart.at(values, place.triangle, place.bary)
    size, y = here[:, 0], here[:, 1:]
    rate = np.zeros_like(y)
    for c, curve in enumerate(curves):
        on = np.flatnonzero(place.curve == c)
        if len(on):
            size[on], y[on], rate[on] = curve.at(place.arc[on])
    return Laid(y, size, rate)


def signed_areas(flat: Floats, faces: Ints) -> Floats:
    """Returns twice the signed areas of triangles of the plane."""
    a, b, c = flat[faces[:, 0]], flat[faces[:, 1]], flat[faces[:, 2]]
    result: Floats = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return result


def relax(
    chart: Chart,
    curves: list[Curve],
    faces: Ints,
    place: Placement,
    iterations: int,
    rate: tuple[float, float] = (0.2, 0.01),
    pull_to: tuple[Ints, Floats] | None = None,
    pull: tuple[float, float] = (0.0, 0.0),
) -> Placement:
    """Returns a placement of lower energy: the mean symmetric Dirichlet energy of the template's triangles.

    Each triangle is compared, in the chart's embedding, with an equilateral one of the wished size, up to one common
    factor. Steps are Adam's with one scale a vertex; vertices whose triangles would turn over in the flat map return.

    Args:
        chart: the source surface.
        curves: what guides the guided vertices.
        faces: the template's triangles.
        place: where the template's vertices start.
        iterations: number of steps.
        rate: first and last length of a step, in wished edge lengths.
        pull_to: vertices and the positions they are drawn to.
        pull: first and last weight of that.
    """
    place = place.copy()
    tri = torch.from_numpy(faces)
    free = np.flatnonzero((place.curve < 0) & ~place.fixed)
    guided = np.flatnonzero((place.curve >= 0) & ~place.fixed)
    mean, square = np.zeros((len(place.curve), 3)), np.zeros(len(place.curve))
    now = lay(chart, curves, place)
    for it in range(iterations):
        gradient = _gradient(now, tri, pull_to, _between(pull, it / iterations))
        descent = np.zeros_like(mean)
        descent[free] = np.einsum("nij,ni->nj", chart.pull_back[place.triangle[free]], gradient[free])
        descent[guided, 0] = (gradient[guided] * now.rate[guided]).sum(1)
        mean = 0.9 * mean + 0.1 * descent
        square = 0.98 * square + 0.02 * (descent**2).sum(1)
        bias = np.sqrt(1 - 0.98 ** (it + 1)) / (1 - 0.9 ** (it + 1))
        length = _between(rate, it / iterations) * bias * now.size_mm / (np.sqrt(square) + 1e-12)
        step = -mean * length[:, None]
        before = place.copy()
        t, b = place.triangle[free], place.bary[free]
        walk(chart.verts, chart.faces, chart.across, t, b, step[free])
        place.triangle[free], place.bary[free] = t, b
        place.arc[guided] += step[guided, 0]
        for attempt in range(7):
            now = lay(chart, curves, place)
            bad = np.flatnonzero(signed_areas(now.flat, faces) <= 0)
            if not len(bad) or attempt == 6:
                break
            back = np.unique(faces[bad]) if attempt < 5 else np.arange(len(mean))
            place.triangle[back], place.bary[back] = before.triangle[back], before.bary[back]
            place.arc[back], mean[back] = before.arc[back], 0
    return place


def _between(ends: tuple[float, float], t: float) -> float:
    return float(ends[0] * (ends[1] / ends[0]) ** t) if min(ends) > 0 else 0.0


def _gradient(now: Laid, tri: torch.Tensor, pull_to: tuple[Ints, Floats] | None, weight: float) -> Floats:
    y = torch.from_numpy(now.embedding).requires_grad_()
    wished = torch.from_numpy(now.size_mm)
    a, b, c = y[:, :6][tri].unbind(1)
    size = wished[tri].mean(1)
    e1, e2 = b - a, c - a
    squares = (e1**2).sum(1) + (e2**2).sum(1) + ((c - b) ** 2).sum(1)
    gram = (e1**2).sum(1) * (e2**2).sum(1) - (e1 * e2).sum(1) ** 2
    area = gram.clamp_min(1e-12).sqrt() / 2
    ref = size**2 * (3**0.5 / 4)
    scale = (area.detach() / ref).log().mean().exp()  # one common factor: the budget of vertices is given
    det = area / (ref * scale)
    energy = (2 / 3 * squares / (size**2 * scale) * (1 + 1 / (det**2 + 1e-6))).sum()
    a, b, c = y[:, 6:][tri].unbind(1)
    doubled = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    sides = ((b - a) ** 2 + (c - b) ** 2 + (a - c) ** 2).sum(1)
    energy = energy + FLAT_WEIGHT * (sides / doubled.clamp_min(1e-15)).sum()
    if pull_to is not None:
        v, target = torch.from_numpy(pull_to[0]), torch.from_numpy(pull_to[1])
        energy = energy + weight * (((y[v, :3] - target) ** 2).sum(1) / wished[v] ** 2).sum()
    (gradient,) = torch.autograd.grad(energy, y)
    result: Floats = gradient.numpy()
    return result
