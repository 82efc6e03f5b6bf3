"""Wraps the hemisphere template onto a half surface: coarse to fine, then along the feature lines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylib.geometry.subdivision import Subdivision
from raylib.morphable.registration.features import (
    MIDLINE_LANDMARKS,
    FeatureLine,
    chain_along,
    closed_polygon,
    feature_lines,
    inside,
    landmark_verts,
    wished_sizes,
)
from raylib.morphable.registration.relax import Chart, Curve, Placement, flatten, lay, relax, signed_areas
from raylib.morphable.registration.source import HalfSurface

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIDLINE, RIM = 0, 1
COARSEST = 2


@dataclass(frozen=True)
class HalfWrap:
    """The left half of the template on the source.

    Attributes:
        chart: the source with its flat map.
        used: numbers of the template's vertices in this half.
        faces: the half's triangles, as indices into `used`.
        triangle: source triangle of each vertex.
        bary: barycentric coordinates in it.
        flat: positions in the flat map.
        landmarks: index into `used` of each landmark of the left half.
        lines: the feature lines.
        chains: indices into `used` along each feature line.
    """

    chart: Chart
    used: Ints
    faces: Ints
    triangle: Ints
    bary: Floats
    flat: Floats
    landmarks: dict[int, int]
    lines: list[FeatureLine]
    chains: list[Ints]


def wrap_half(template: Subdivision, surface: HalfSurface, ict_landmarks: tuple[int, ...]) -> HalfWrap:
    """Returns the left half of `template` laid on `surface`."""
    landmarks = landmark_verts(surface, ict_landmarks)
    size = wished_sizes(surface, landmarks)
    chart = flatten(surface.verts, surface.faces, surface.midline, surface.rim, size)
    curves = [chart.along_vertices(ids) for ids in (surface.midline, surface.rim)]
    used, faces, place = _coarse_to_fine(template, chart, curves)
    lines = feature_lines(surface, chart, landmarks)
    place, pins, chains = _lay_along(chart, curves, lines, faces, place, surface, landmarks)
    flat = lay(chart, curves, place).flat
    triangle, bary = place.triangle.copy(), place.bary.copy()
    guided = place.curve >= 0
    triangle[guided], bary[guided] = chart.locate(flat[guided])
    return HalfWrap(chart, used, faces, triangle, bary, flat, pins, lines, chains)


def _half(template: Subdivision, level: int) -> tuple[Ints, Ints]:
    verts, faces = template.verts.numpy(), template.level_faces[level].numpy()
    faces = faces[(verts[faces][:, :, 0] > -1e-6).all(1)]
    used = np.unique(faces)
    return used, np.searchsorted(used, faces)


def _coarse_to_fine(template: Subdivision, chart: Chart, curves: list[Curve]) -> tuple[Ints, Ints, Placement]:
    sphere, parents = template.verts.double().numpy(), template.parents.numpy()
    arcs = np.zeros((len(sphere), 2))  # on midline and rim; the two junctions have both
    flat = np.zeros((len(sphere), 2))
    ends = (int(np.argmax(sphere[:, 1])), int(np.argmin(sphere[:, 1])))
    arcs[ends[1]] = [curve.arc[-1] for curve in curves]
    for level in range(COARSEST, len(template.level_sizes)):
        used, faces = _half(template, level)
        v = sphere[used]
        on = np.stack([np.abs(v[:, 0]) < 1e-6, np.abs(v[:, 2]) < 1e-6])
        if level == COARSEST:
            polar = np.arccos(np.clip(v[:, 2], -1, 1)) / (np.pi / 2)
            around = np.arctan2(v[:, 1], v[:, 0])
            flat[used] = polar[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1)
            arcs[used[on[0]], 0] = np.interp(-flat[used[on[0]], 1], -curves[0].flat[:, 1], curves[0].arc)
            arcs[used[on[1]], 1] = (0.5 - around[on[1]] / np.pi) * curves[1].arc[-1]
        else:
            new = used[used >= template.level_sizes[level - 1]]
            flat[new] = flat[parents[new]].mean(1)
            arcs[new] = arcs[parents[new]].mean(1)
        curve = np.where(on[0], MIDLINE, np.where(on[1], RIM, -1))
        arc = np.where(on[0], arcs[used, 0], arcs[used, 1])
        place = Placement(curve, arc, on[0] & on[1], *chart.locate(flat[used]))
        place = relax(chart, curves, faces, place, 300 * level, (0.15, 0.01))
        flat[used] = lay(chart, curves, place).flat
        for k in (MIDLINE, RIM):
            moved = (place.curve == k) & ~place.fixed
            arcs[used[moved], k] = place.arc[moved]
    return used, faces, place


def _lay_along(
    chart: Chart,
    curves: list[Curve],
    lines: list[FeatureLine],
    faces: Ints,
    place: Placement,
    surface: HalfSurface,
    landmarks: dict[int, int],
) -> tuple[Placement, dict[int, int], list[Ints]]:
    """Draws chains of edges onto the feature lines and a vertex onto each landmark, then lets the rest settle."""
    now = lay(chart, curves, place)
    x, flat = now.points, now.flat
    middle = flat[faces].mean(1)
    on_midline = place.curve == MIDLINE
    first_line = len(curves)
    curves += [line.curve for line in lines]
    curve, arc = place.curve.copy(), place.arc.copy()
    pins: dict[int, int] = {}
    chains: list[Ints] = []
    taken = (place.curve == RIM) | place.fixed
    for number, line in enumerate(lines):
        if line.around < 0:
            region = inside(middle, closed_polygon(line))
        else:
            region = np.isin(faces, chains[line.around]).any(1) | inside(middle, closed_polygon(line))
        chain, _ = chain_along(faces, region, on_midline)
        if line.around < 0:
            s = _arcs_along(line, x[chain], flat[chain], chart.flat[[landmarks[k] for k in line.landmarks]])
        else:
            inner = chains[line.around]
            beside = curves[first_line + line.around].at(arc[inner])[1]
            s = _arcs_around(line, chain, inner, faces, beside), {}
        for k, i in s[1].items():
            pins[line.landmarks[k]] = int(chain[i])
        free = ~on_midline[chain]
        curve[chain[free]] = first_line + number
        arc[chain[free]] = s[0][free]
        taken[chain] = True
        chains.append(chain)
    for k, v in landmarks.items():
        if k not in pins:
            gap = np.linalg.norm(flat - chart.flat[v], axis=1)
            gap[taken | (on_midline != (k in MIDLINE_LANDMARKS))] = np.inf
            pins[k] = int(gap.argmin())
            taken[pins[k]] = True
    target = x.copy()
    moved = np.zeros(len(x), bool)
    for c in range(first_line, len(curves)):
        on = curve == c
        target[on] = curves[c].at(arc[on])[1][:, :3]
        moved |= on
    for k, i in pins.items():
        target[i] = surface.verts[landmarks[k]]
        moved[i] = True
    who = np.flatnonzero(moved)
    place = relax(chart, curves, faces, place, 2000, (0.08, 0.02), (who, target[who]), (0.3, 50.0))
    goal = place.copy()
    goal.curve, goal.arc = curve, np.where(curve >= first_line, arc, place.arc)
    for k, i in pins.items():
        goal.fixed[i] = True
        if curve[i] >= 0:
            goal.arc[i] = curves[curve[i]].nearest(chart.flat[landmarks[k]][None])[0]
        else:
            goal.triangle[i], goal.bary[i] = _at_vertex(chart, landmarks[k])
    place = _snap(chart, curves, faces, place, goal, who, target)
    return relax(chart, curves, faces, place, 1500, (0.06, 0.005)), pins, chains


def _snap(
    chart: Chart, curves: list[Curve], faces: Ints, place: Placement, goal: Placement, who: Ints, target: Floats
) -> Placement:
    """Gives vertices their goals wherever no triangle turns over, and draws the rest nearer until all have theirs."""
    left = who
    for _ in range(10):
        place = relax(chart, curves, faces, place, 300, (0.01, 0.001), (left, target[left]), (50.0, 5000.0))
        before = place.copy()
        for name in vars(place):
            getattr(place, name)[left] = getattr(goal, name)[left]
        waiting = np.zeros(len(place.arc), bool)
        while True:
            bad = signed_areas(lay(chart, curves, place).flat, faces) <= 0
            back = np.setdiff1d(np.intersect1d(faces[bad], left), np.flatnonzero(waiting))
            if not len(back):
                break
            waiting[back] = True
            for name in vars(place):
                getattr(place, name)[back] = getattr(before, name)[back]
        left = np.flatnonzero(waiting)
        if not len(left):
            return place
    raise ValueError(f"{len(left)} vertices do not reach their feature lines without a fold")


def _at_vertex(chart: Chart, v: int) -> tuple[int, Floats]:
    f = int(np.flatnonzero((chart.faces == v).any(1))[0])
    return f, (chart.faces[f] == v).astype(float)


def _arcs_along(line: FeatureLine, chain: Floats, flat: Floats, landmarks: Floats) -> tuple[Floats, dict[int, int]]:
    """Arc lengths for a chain's vertices in the chain's order, the landmarks' nearest vertices exactly at them.

    Returns:
        The arc lengths and, for each landmark, the chain's vertex on it.
    """
    curve = line.curve
    total = curve.arc[-1]
    s = curve.nearest(flat)
    step = np.linalg.norm(np.roll(chain, -1, axis=0) - chain, axis=1)
    marks = curve.nearest(landmarks)
    gaps = np.linalg.norm(flat[:, None] - landmarks, axis=2)
    chosen: dict[int, int] = {}
    for k in np.argsort(gaps.min(0)):
        order = [i for i in np.argsort(gaps[:, k]) if i not in chosen.values()]
        chosen[int(k)] = int(order[0])
    if not curve.closed:  # the ends lie on the midline, at the first and last landmark
        forward = s[-1] > s[0]
        chosen[0], chosen[len(marks) - 1] = (0, len(chain) - 1) if forward else (len(chain) - 1, 0)
    # Between landmarks keep the proportions of the chain's own edges.
    stops = sorted((i, marks[k]) for k, i in chosen.items())
    result = s.copy()
    pairs = list(itertools.pairwise(stops))
    if curve.closed:
        pairs.append((stops[-1], (stops[0][0] + len(chain), stops[0][1])))
    direction = np.sign(sum(np.sign((b[1] - a[1] + total / 2) % total - total / 2) for a, b in pairs)) or 1.0
    for (i, a), (j, b) in pairs:
        span = b - a
        if curve.closed:
            span = (span * direction) % total * direction
        index = np.arange(i, j + 1) % len(chain)
        part = np.r_[0, np.cumsum(step[index[:-1]])]
        result[index[:-1]] = a + span * part[:-1] / part[-1]
        if not curve.closed:
            result[index[-1]] = b
    return (np.mod(result, total) if curve.closed else result), chosen


def _arcs_around(line: FeatureLine, chain: Ints, inner: Ints, faces: Ints, goal: Floats) -> Floats:
    """Arc lengths for a chain around another one: beside the inner vertices that edges join it to, spread a bit."""
    curve, total = line.curve, line.curve.arc[-1]
    index, beside = [], []
    for i, v in enumerate(chain):
        near = np.isin(inner, faces[(faces == v).any(1)])
        if near.any():
            index.append(i)
            beside.append(goal[near].mean(0))
    known = np.unwrap(curve.nearest(np.array(beside)[:, 6:]), period=total)
    turn = np.sign(known[-1] - known[0]) * total
    s = np.interp(np.arange(len(chain)), [*index, index[0] + len(chain)], [*known, known[0] + turn])
    even = turn * np.arange(len(chain)) / len(chain)
    result: Floats = np.mod(0.7 * s + 0.3 * (even + (s - even).mean()), total)
    return result
