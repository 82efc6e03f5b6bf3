"""Wraps the hemisphere template onto a half surface: coarse to fine, then along the feature lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylib.mesh import Subdivision
from raylib.wrapping.features import (
    MIDLINE_LANDMARKS,
    FeatureLine,
    chain_along,
    closed_polygon,
    feature_lines,
    inside,
    landmark_verts,
    wished_sizes,
)
from raylib.wrapping.relax import Chart, Curve, Placement, flatten, positions, relax
from raylib.wrapping.source import HalfSurface

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
    chart = flatten(surface.verts, surface.faces, surface.midline, surface.rim)
    landmarks = landmark_verts(surface, ict_landmarks)
    size = wished_sizes(surface, landmarks)
    curves = [Curve(surface.verts[ids], chart.flat[ids]) for ids in (surface.midline, surface.rim)]
    used, faces, place = _coarse_to_fine(template, chart, curves, size)
    lines = feature_lines(surface, chart, landmarks)
    place, pins, chains = _lay_along(chart, curves, lines, faces, place, size, surface, landmarks)
    x, flat, _ = positions(chart, curves, place)
    triangle, bary = place.triangle.copy(), place.bary.copy()
    guided = place.curve >= 0
    triangle[guided], bary[guided] = chart.locate(flat[guided])
    return HalfWrap(chart, used, faces, triangle, bary, flat, pins, lines, chains)


def _half(template: Subdivision, level: int) -> tuple[Ints, Ints]:
    verts, faces = template.verts.numpy(), template.level_faces[level].numpy()
    faces = faces[(verts[faces][:, :, 0] > -1e-6).all(1)]
    used = np.unique(faces)
    return used, np.searchsorted(used, faces)


def _coarse_to_fine(
    template: Subdivision, chart: Chart, curves: list[Curve], size: Floats
) -> tuple[Ints, Ints, Placement]:
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
        place = Placement(curve, arc, on.all(0), *chart.locate(flat[used]))
        place = relax(chart, curves, faces, place, size, 300 * level, (0.15, 0.01))
        flat[used] = positions(chart, curves, place)[1]
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
    size: Floats,
    surface: HalfSurface,
    landmarks: dict[int, int],
) -> tuple[Placement, dict[int, int], list[Ints]]:
    """Draws chains of edges onto the feature lines and a vertex onto each landmark, then lets the rest settle."""
    x, flat, _ = positions(chart, curves, place)
    middle = flat[faces].mean(1)
    on_midline = place.curve == MIDLINE
    first_line = len(curves)
    curves += [line.curve for line in lines]
    curve, arc = place.curve.copy(), place.arc.copy()
    pins: dict[int, int] = {}
    chains = []
    taken = (place.curve == RIM) | place.fixed
    for number, line in enumerate(lines):
        chain, _ = chain_along(faces, inside(middle, closed_polygon(line)), on_midline)
        s = _arcs_along(line, x[chain], flat[chain], chart.flat[[landmarks[k] for k in line.landmarks]])
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
        target[on] = curves[c].at(arc[on])[0]
        moved |= on
    for k, i in pins.items():
        target[i] = surface.verts[landmarks[k]]
        moved[i] = True
    who = np.flatnonzero(moved)
    place = relax(chart, curves, faces, place, size, 1200, (0.05, 0.01), (who, target[who]), (0.1, 300.0))
    place.curve, place.arc = curve, np.where(curve >= first_line, arc, place.arc)
    for k, i in pins.items():
        place.fixed[i] = True
        at = chart.flat[landmarks[k]][None]
        if curve[i] >= 0:
            place.arc[i] = curves[curve[i]].nearest(at)[0]
        else:
            place.triangle[i], place.bary[i] = _at_vertex(chart, landmarks[k])
    place = relax(chart, curves, faces, place, size, 1500, (0.06, 0.005))
    return place, pins, chains


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
    step = np.linalg.norm(np.roll(chain, -1, axis=0) - chain, axis=1)
    pairs = list(zip(stops, stops[1:], strict=False))
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
