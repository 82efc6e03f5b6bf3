"""The surface that the template is wrapped onto: the left half of the ICT-FaceKit face, closed and cut along a rim.

The scan-like part of the ICT head is one sheet with openings at the eyes and the mouth. The eye openings are closed
along the lids' edge by a sheet on the eyeball, the mouth at the back of its pocket, behind the lips. The sheet is cut
along an outline over the forehead, in front of the ears and under the jaw. Every vertex of the result is a fixed
linear combination of ICT vertices, so that it follows all of the model's modes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from raylib.morphable.registration.ict import IctHead

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OUTLINE_MM = (
    (0.0, 72.0, 2.0),
    (35.0, 68.0, -8.0),
    (60.0, 50.0, -31.0),
    (70.0, 28.0, -49.0),
    (74.0, 4.0, -57.0),
    (74.0, -18.0, -57.0),
    (72.0, -40.0, -54.0),
    (66.0, -64.0, -48.0),
    (54.0, -84.0, -40.0),
    (36.0, -101.0, -30.0),
    (16.0, -109.0, -22.0),
    (0.0, -111.0, -19.0),
)
"""Points of the cut on the mean face's left half, from the forehead's hairline to the throat."""

OUTLINE_CENTRE_MM = (0.0, -20.0, -75.0)
"""The cut is a star-shaped curve in the directions from this point."""

LID_RING = 2
"""Edge rings between the hole in the ICT face sheet at an eye and the lid's edge, where the landmarks lie."""


@dataclass(frozen=True)
class HalfSurface:
    """The left half (x >= 0) of the source surface, a disc whose boundary is the midline and the rim.

    Attributes:
        verts: positions on the mean face, millimetres.
        faces: triangles, counter-clockwise seen from outside.
        weights: rows of ICT vertices' weights that give each vertex, for the mean and identities.
        motion: the same for the displacements of expressions: the sheet over the eye follows the lids, not the gaze.
        midline: vertices on x = 0 from the forehead's rim to the throat's.
        rim: vertices on the outline from the forehead to the throat, both ends on the midline.
        lid_ring: vertices of the lids' edge in order, from the outer corner along the upper lid.
        ict_vertex: number of the ICT vertex that a vertex copies, -1 for those in between.
        on_eye: triangles of the sheet over the eye.
        in_mouth: triangles of the sheet at the back of the mouth's pocket.
    """

    verts: Floats
    faces: Ints
    weights: sp.csr_matrix
    motion: sp.csr_matrix
    midline: Ints
    rim: Ints
    lid_ring: Ints
    ict_vertex: Ints
    on_eye: NDArray[np.bool_]
    in_mouth: NDArray[np.bool_]


def half_surface(head: IctHead) -> HalfSurface:
    """Returns the left half of the closed and cut face of `head`."""
    sheet = head.quads[head.material == head.material_names.index("M_Face")]
    quads = sheet[(head.verts[sheet][:, :, 0] > -1e-2).all(1)]
    neighbours = _adjacency(quads)
    eye_hole, mouth_hole = _holes(quads, head.verts)

    # The lids' edge: drop the strip that turns inwards behind it.
    distance = _steps_from(neighbours, eye_hole)
    ring = _ordered_ring(neighbours, [v for v, d in distance.items() if d == LID_RING])
    start = int(np.argmax(head.verts[ring, 0]))
    ring = ring[start:] + ring[:start]
    if head.verts[ring[len(ring) // 4], 1] < head.verts[ring[-(len(ring) // 4)], 1]:
        ring = [ring[0], *ring[:0:-1]]
    inside = np.array([distance.get(int(v), 99) < LID_RING for v in range(len(head.verts))])
    quads = quads[~inside[quads].any(1)]
    faces = split_quads(quads, head.verts)

    n = len(head.verts)
    rows = _Rows(n)
    half = len(ring) // 2
    upper, lower = ring[: half + 1], [ring[0], *ring[: half - 1 : -1]]
    eye = _ladder(upper, lower, 10, rows)
    side = len(mouth_hole) // 2
    mouth = _ladder(mouth_hole[:side], mouth_hole[: side - 1 : -1], 8, rows, closed_by_edge=side - 1)
    all_faces = np.concatenate([faces, eye, mouth])
    kind = np.repeat([0, 1, 2], [len(faces), len(eye), len(mouth)])
    motion = rows.matrix()
    weights = _onto_eyeball(head, motion, np.unique(eye), np.array(ring))
    verts = weights @ head.verts
    all_faces, kind = _face_outwards(verts, all_faces, kind, (np.array(ring), np.array(mouth_hole)))
    return _clipped(verts, all_faces, kind, weights, motion, np.array(ring), n)


class _Rows:
    """Weights of new vertices over the ICT vertices; new vertices are numbered after the old."""

    def __init__(self, n: int):
        self.n = n
        self.new: list[dict[int, float]] = []

    def add(self, row: dict[int, float]) -> int:
        self.new.append(row)
        return self.n + len(self.new) - 1

    def matrix(self) -> sp.csr_matrix:
        i = [k for k, row in enumerate(self.new) for _ in row]
        j = [v for row in self.new for v in row]
        w = [x for row in self.new for x in row.values()]
        extra = sp.csr_matrix((w, (i, j)), shape=(len(self.new), self.n))
        return sp.vstack([sp.identity(self.n, format="csr"), extra]).tocsr()


def _ladder(
    upper: Sequence[int], lower: Sequence[int], steps: int, rows: _Rows, closed_by_edge: int | None = None
) -> Ints:
    """Triangles of a sheet ruled between two lines of equally many vertices.

    Equal ends make a corner; the column `closed_by_edge` is an edge of the opening itself and is not divided.
    """
    columns = []
    for i, (a, b) in enumerate(zip(upper, lower, strict=True)):
        if a == b:
            columns.append([a] * (steps + 1))
        elif i == closed_by_edge:
            columns.append([a] * (steps // 2 + 1) + [b] * (steps - steps // 2))
        else:
            t = [k / steps for k in range(1, steps)]
            columns.append([a, *(rows.add({a: 1 - x, b: x}) for x in t), b])
    triangles = []
    for left, right in itertools.pairwise(columns):
        for k in range(steps):
            p, q, r, s = left[k], left[k + 1], right[k + 1], right[k]
            triangles += [t for t in ((p, q, r), (p, r, s)) if len(set(t)) == 3]
    return np.array(triangles)


def _onto_eyeball(head: IctHead, motion: sp.csr_matrix, eye: Ints, ring: Ints) -> sp.csr_matrix:
    """Moves the sheet over the eye onto the eyeball: eyeball point plus the ruled offset between lid and eyeball."""
    ball = head.quads[head.material == head.material_names.index("M_ScleraLeft")]
    triangles = split_quads(ball, head.verts)
    points = head.verts[np.unique(triangles)]
    system = np.c_[2 * points, np.ones(len(points))]
    centre = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0][:3]
    ruled = motion @ head.verts
    hits = sp.lil_matrix((len(ruled), len(head.verts)))
    a, b, c = (head.verts[triangles[:, k]] - centre for k in range(3))
    basis = np.linalg.inv(np.stack([a, b, c], axis=2))  # direction = basis^-1 @ barycentric, up to scale
    for v in np.union1d(eye, ring):
        bary = basis @ (ruled[v] - centre)
        reach = 1 / np.maximum(bary.sum(1), 1e-12)  # how far along the ray the triangle's plane lies
        hit = (bary > -1e-9).all(1) & (bary.sum(1) > 0)
        best = int(np.argmax(np.where(hit, reach, -1)))
        hits[v, triangles[best]] = bary[best] / bary[best].sum()
    foot = hits.tocsr()
    inner = np.setdiff1d(eye, ring)
    keep = sp.diags(np.isin(np.arange(len(ruled)), inner).astype(float))
    onto_lid = sp.identity(len(head.verts), format="csr") - foot[: len(head.verts)]
    return (motion + keep @ (foot + motion @ onto_lid - motion)).tocsr()


def _clipped(
    verts: Floats,
    faces: Ints,
    kind: Ints,
    weights: sp.csr_matrix,
    motion: sp.csr_matrix,
    ring: Ints,
    n: int,
) -> HalfSurface:
    """Cuts along the outline, drops what lies outside, and renumbers."""
    inside = inside_outline(verts)
    inside[np.abs(inside) < 1e-3] = 1e-3
    out, out_kind = [], []
    new: list[tuple[int, int, float]] = []
    cut_of: dict[tuple[int, int], int] = {}

    def crossing(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in cut_of:
            t = inside[key[0]] / (inside[key[0]] - inside[key[1]])
            cut_of[key] = len(verts) + len(new)
            new.append((*key, t))
        return cut_of[key]

    for face, k in zip(faces.tolist(), kind.tolist(), strict=True):
        polygon = []
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            if inside[a] > 0:
                polygon.append(a)
            if (inside[a] > 0) != (inside[b] > 0):
                polygon.append(crossing(a, b))
        for i in range(1, len(polygon) - 1):
            out.append((polygon[0], polygon[i], polygon[i + 1]))
            out_kind.append(k)
    a, b, t = (np.array(x) for x in zip(*new, strict=True))
    extra = sp.csr_matrix(
        (np.r_[1 - t, t], (np.r_[: len(new), : len(new)], np.r_[a, b])), shape=(len(new), len(verts))
    )
    weights = sp.vstack([weights, extra @ weights]).tocsr()
    motion = sp.vstack([motion, extra @ motion]).tocsr()
    verts = np.concatenate([verts, extra @ verts])
    tris, kinds = np.array(out), np.array(out_kind)

    # Keep the piece that carries the lids: the outline's cone also meets the back of the ear and the neck.
    graph = sp.coo_matrix(
        (np.ones(len(tris) * 3), (tris.ravel(), np.roll(tris, -1, 1).ravel())), shape=(len(verts), len(verts))
    )
    label = sp.csgraph.connected_components(graph, directed=False)[1]
    keep = label[tris[:, 0]] == label[ring[0]]
    tris, kinds = tris[keep], kinds[keep]
    used = np.unique(tris)
    number = np.full(len(verts), -1)
    number[used] = np.arange(len(used))
    tris, verts = number[tris], verts[used].copy()
    verts[np.abs(verts[:, 0]) < 1e-2, 0] = 0.0
    midline, rim = _boundary(tris, verts)
    copied = np.where(used < n, used, -1)
    return HalfSurface(
        verts, tris, weights[used], motion[used], midline, rim, number[ring], copied, kinds == 1, kinds == 2
    )


def inside_outline(verts: Floats) -> Floats:
    """Positive within the outline: its polar angle less the vertex's, seen from the outline's centre, radians."""

    def polar(points: Floats) -> tuple[Floats, Floats]:
        d = points - np.array(OUTLINE_CENTRE_MM)
        return np.arctan2(np.abs(d[:, 0]), d[:, 1]), np.arctan2(np.hypot(d[:, 0], d[:, 1]), d[:, 2])

    around, away = polar(np.array(OUTLINE_MM))
    result: Floats = PchipInterpolator(around, away)(polar(verts)[0]) - polar(verts)[1]
    return result


def _boundary(faces: Ints, verts: Floats) -> tuple[Ints, Ints]:
    """Splits the one boundary loop of the half disc into midline and rim, both from forehead to throat."""
    after = boundary_successors(faces)
    top = max((v for v in after if verts[v, 0] == 0), key=lambda v: verts[v, 1])
    loop, v = [top], after[top]
    while v != top:
        loop.append(v)
        v = after[v]
    if len(loop) != len(after):
        raise ValueError("the cut face is not a disc: its boundary has more than one loop")
    on_mid = verts[loop, 0] == 0
    last = int(np.flatnonzero(on_mid)[-1]) if not on_mid[1] else int(np.flatnonzero(~on_mid)[0]) - 1
    if on_mid[1]:
        return np.array(loop[: last + 1]), np.array([top, *loop[: last - 1 : -1]])
    first = int(np.flatnonzero(on_mid)[1])
    return np.array([top, *loop[: first - 1 : -1]]), np.array(loop[: first + 1])


def boundary_successors(faces: Ints) -> dict[int, int]:
    """Returns for each vertex on the boundary the next one, in the direction of the triangles there."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {(int(a), int(b)) for a, b in sides}
    return {a: b for a, b in directed if (b, a) not in directed}


def _face_outwards(verts: Floats, faces: Ints, kind: Ints, rings: tuple[Ints, ...]) -> tuple[Ints, Ints]:
    """Turns the sheets' triangles so that they run against the skin's at the shared edges."""
    sides = {(int(f[i]), int(f[i - 2])) for f, k in zip(faces, kind, strict=True) if k == 0 for i in range(3)}
    for sheet in (1, 2):
        mine = faces[kind == sheet]
        clash = any((int(f[i]), int(f[i - 2])) in sides for f in mine for i in range(3))
        if clash:
            faces[kind == sheet] = mine[:, ::-1]
    return faces, kind


def _adjacency(quads: Ints) -> dict[int, set[int]]:
    out: dict[int, set[int]] = {}
    for q in quads.tolist():
        for a, b in zip(q, q[1:] + q[:1], strict=True):
            out.setdefault(a, set()).add(b)
            out.setdefault(b, set()).add(a)
    return out


def _holes(quads: Ints, verts: Floats) -> tuple[list[int], list[int]]:
    """The eye's hole, and the mouth's from the midline of the upper lip round the corner to the lower."""
    sides = {(a, b) for q in quads.tolist() for a, b in zip(q, q[1:] + q[:1], strict=True)}
    after = {a: b for a, b in sides if (b, a) not in sides}
    eye: list[int] = []
    free = set(after)
    while free:
        start = v = free.pop()
        loop = [v]
        while after[v] != start:
            v = after[v]
            loop.append(v)
        free -= set(loop)
        if (verts[loop, 0] > 1).all():
            eye = loop
        else:  # midline, mouth and neck make one loop of the half sheet; the mouth is its part within the head
            off = np.abs(verts[loop, 0]) > 1e-2
            k = int(np.flatnonzero(~off)[0])
            loop = loop[k:] + loop[:k]
            off = np.roll(off, -k)
            bounds = np.flatnonzero(np.diff(off.astype(int)))
            runs = [loop[i : j + 2] for i, j in zip(bounds[::2], bounds[1::2], strict=False)]
            mouth = min(runs, key=len)
    return eye, mouth if verts[mouth[0], 1] > verts[mouth[-1], 1] else mouth[::-1]


def _steps_from(neighbours: dict[int, set[int]], start: Sequence[int]) -> dict[int, int]:
    distance = dict.fromkeys(start, 0)
    front = list(start)
    for d in range(1, LID_RING + 1):
        front = [w for v in front for w in neighbours[v] if distance.setdefault(w, d) == d]
        front = list(dict.fromkeys(front))
    return distance


def _ordered_ring(neighbours: dict[int, set[int]], ring: Sequence[int]) -> list[int]:
    members = set(ring)
    order = [ring[0]]
    while len(order) < len(ring):
        order.append(next(w for w in sorted(neighbours[order[-1]] & members) if w not in order))
    return order


def split_quads(quads: Ints, verts: Floats) -> Ints:
    """Two triangles a quad, along its shorter diagonal; a quad padded with -1 is one triangle."""
    whole = quads[quads[:, 3] >= 0]
    p = verts[whole]
    first = np.linalg.norm(p[:, 0] - p[:, 2], axis=1) <= np.linalg.norm(p[:, 1] - p[:, 3], axis=1)
    order = np.where(first[:, None, None], [[0, 1, 2], [0, 2, 3]], [[1, 2, 3], [1, 3, 0]])
    split = np.take_along_axis(whole[:, None, :], order, axis=2).reshape(-1, 3)
    return np.concatenate([split, quads[quads[:, 3] < 0, :3]])
