"""Makes the shipped face prior: wraps, resamples the modes, labels, lays out the texture, measures, writes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.spatial import cKDTree

from raylib.geometry.subdivision import Subdivision, hemisphere
from raylib.morphable.ict import LANDMARK_VERTS
from raylib.morphable.model import REGIONS
from raylib.morphable.registration.features import closed_polygon, inside
from raylib.morphable.registration.ict import IctHead
from raylib.morphable.registration.measure import cross_products, point_to_mesh_mm, smallest_angles_deg
from raylib.morphable.registration.source import HalfSurface, half_surface
from raylib.morphable.registration.unwrap import signed_areas, to_unit_square, unwrap_half
from raylib.morphable.registration.wrap import HalfWrap, wrap_half
from raylib.runtime.progress import watched

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FORMAT_VERSION = "1"

MIN_MOTION_MM = 0.1
"""Expressions that move no vertex further are left out: they act on the pupils, which the template lacks."""

FOLD_FACES = 100
"""Random faces in which folded triangles are counted."""

BROW_HALF_WIDTH_MM = 4.0
NOSE_OUTLINE_MM = (
    (0, 6), (6, 4), (8, -8), (12, -24), (18, -32), (20.5, -38), (20, -44), (15, -48.5), (8, -48), (0, -49)
)  # fmt: skip
"""Left half of the nose seen from the front."""

FACE_RADIUS_MM = 95.0
"""Source vertices this near the tip of the nose count in the measured distances."""


@dataclass(frozen=True)
class Resampling:
    """Weights over the ICT vertices that give the template's vertices.

    Attributes:
        weights: for positions and identity modes.
        motion: for the displacements of expressions.
        faces: the template's triangles, counter-clockwise seen from outside.
        mirror: the vertex across the plane of symmetry.
        half: the wrap of the left half.
    """

    weights: sp.csr_matrix
    motion: sp.csr_matrix
    faces: Ints
    mirror: Ints
    half: HalfWrap


def template_mirror(template: Subdivision) -> Ints:
    """Returns for each template vertex the one across x = 0."""
    verts = template.verts.double().numpy()
    return np.asarray(cKDTree(verts).query(verts * [-1, 1, 1])[1], dtype=np.int64)


def resample(head: IctHead, template: Subdivision, surface: HalfSurface) -> Resampling:
    """Wraps the left half of the template and mirrors the result."""
    half = wrap_half(template, surface, LANDMARK_VERTS)
    n = len(template.verts)
    corner = half.chart.faces[half.triangle]
    rows = np.repeat(np.arange(len(half.used)), 3)
    bary = sp.csr_matrix((half.bary.ravel(), (rows, corner.ravel())), shape=(len(half.used), len(surface.verts)))
    mirror = template_mirror(template)
    gap, across = (np.asarray(a) for a in cKDTree(head.verts).query(head.verts * [-1, 1, 1]))
    out = []
    for rule in (surface.weights, surface.motion):
        left = (bary @ rule).tocoo()
        if gap[left.col].max() > 0.1:
            raise ValueError(f"the source is not symmetric: {gap[left.col].max():.2f} mm")
        off = half.used[left.row] != mirror[half.used[left.row]]
        row = np.r_[half.used[left.row], mirror[half.used[left.row]][off]]
        col = np.r_[left.col, across[left.col][off]]
        out.append(sp.csr_matrix((np.r_[left.data, left.data[off]], (row, col)), shape=(n, len(head.verts))))
    return Resampling(out[0], out[1], template.faces.numpy(), mirror, half)


def symmetric_mean(head: IctHead, maps: Resampling) -> Floats:
    """Returns the mean face, mirror symmetric to the last bit."""
    mean = maps.weights @ head.verts
    mean = (mean + mean[maps.mirror] * [-1, 1, 1]) / 2
    return np.asarray(mean.astype(np.float32), dtype=np.float64)


def identity_modes(head: IctHead, maps: Resampling) -> tuple[Floats, Floats]:
    """Returns the resampled identity modes as principal components, one standard deviation each, largest first."""
    raw = np.stack([maps.weights @ mode for mode in head.identity.astype(np.float64)])
    _, size, axes = np.linalg.svd(raw.reshape(len(raw), -1), full_matrices=False)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0]
    sign = np.sign(largest)
    return (axes * (size * sign)[:, None]).reshape(raw.shape), raw


def expression_modes(head: IctHead, maps: Resampling) -> tuple[Floats, list[str]]:
    """Returns the expressions that move the template, and their names."""
    raw = np.stack([maps.motion @ mode for mode in head.expression.astype(np.float64)])
    keep = np.linalg.norm(raw, axis=2).max(1) >= MIN_MOTION_MM
    return raw[keep], [name for name, k in zip(head.expression_names, keep, strict=True) if k]


def landmark_verts(maps: Resampling) -> Ints:
    """Returns the vertex of each of the 68 landmarks."""
    partner = _mirrored_landmarks()
    out = np.full(68, -1)
    for k, v in maps.half.landmarks.items():
        out[k] = maps.half.used[v]
        out[partner[k]] = maps.mirror[out[k]]
    return out


def _mirrored_landmarks() -> list[int]:
    pairs = dict(zip(range(17), range(16, -1, -1), strict=True)) | dict(
        zip(range(17, 27), range(26, 16, -1), strict=True)
    )
    pairs |= {k: k for k in range(27, 31)} | dict(zip(range(31, 36), range(35, 30, -1), strict=True))
    pairs |= dict(zip((36, 37, 38, 39, 40, 41), (45, 44, 43, 42, 47, 46), strict=True))
    pairs |= {v: k for k, v in list(pairs.items())}
    for ring, corner in ((range(48, 60), 48), (range(60, 68), 60)):
        n = len(ring)
        pairs |= {k: corner + (n // 2 - (k - corner)) % n for k in ring}
    return [pairs[k] for k in range(68)]


def contour_candidates(mean: Floats, landmarks: Ints, per_row: int = 8, step_mm: float = 5.0) -> Ints:
    """Returns for the landmarks 0..16 vertices between the rim and the cheek that may make the visible outline.

    They lie on the straight line, seen from the front, from the landmark towards the middle of the mouth's height at
    the side, where the outline of a turned head wanders.
    """
    out = np.full((17, per_row), -1)
    for k in range(17):
        p = mean[landmarks[k]]
        inwards = np.array([0.0, -40.0]) - p[:2]
        inwards /= np.linalg.norm(inwards)
        row: list[int] = [int(landmarks[k])]
        for j in range(1, per_row):
            goal = p[:2] + inwards * step_mm * j
            front = np.linalg.norm(mean[:, :2] - goal, axis=1) - 0.02 * mean[:, 2]
            v = int(front.argmin())
            if v not in row:
                row.append(v)
        out[k, : len(row)] = row
    return out


def label_regions(mean: Floats, maps: Resampling, landmarks: Ints) -> Ints:
    """Returns the region of each vertex; eyes and lips own their outlines, the inner mouth does not."""
    half, name = maps.half, {r: i for i, r in enumerate(REGIONS)}
    here = mean[half.used]
    label = np.full(len(here), name["skin"])
    brow = mean[landmarks[22:27]]
    t = np.linspace(0, 1, 20)[:, None]
    dense = np.concatenate([a + t * (b - a) for a, b in itertools.pairwise(brow)])
    label[cKDTree(dense).query(here)[0] <= BROW_HALF_WIDTH_MM] = name["brow"]
    nose = np.array(NOSE_OUTLINE_MM, float)
    label[inside(here[:, :2], np.concatenate([nose, nose[::-1] * [-1, 1]]))] = name["nose"]
    eye, outer, inner = (inside(half.flat, closed_polygon(line)) for line in half.lines[:3])
    on = [np.isin(np.arange(len(here)), chain) for chain in half.chains]
    lips = (outer | on[1]) & ~(inner & ~on[2])
    corner = [
        line.curve.nearest(half.chart.flat[[_source_vertex(half, m)]])[0]
        for line, m in zip(half.lines[1:3], (54, 64), strict=True)
    ]
    upper = half.lines[2].curve.nearest(half.flat) <= corner[1] + 1e-6
    outer_upper = half.lines[1].curve.nearest(half.flat) <= corner[0] + 1e-6
    label[lips] = np.where(np.where(on[1], outer_upper, upper), name["upper_lip"], name["lower_lip"])[lips]
    label[inner & ~on[2]] = name["inner_mouth"]
    label[eye | on[0]] = name["eye"]
    out = np.zeros(len(mean), np.int64)
    out[half.used] = label
    out[maps.mirror[half.used]] = label
    return out


def _source_vertex(half: HalfWrap, landmark: int) -> int:
    i = half.landmarks[landmark]
    return int(half.chart.faces[half.triangle[i]][half.bary[i].argmax()])


def texture_layout(mean: Floats, maps: Resampling, regions: Ints) -> Floats:
    """Returns texture coordinates of each vertex; eyes and lips are enlarged."""
    half = maps.half
    magnify = np.where(np.isin(regions, [REGIONS.index(r) for r in ("eye", "upper_lip", "lower_lip")]), 1.5, 1.0)
    on_midline = maps.mirror[half.used] == half.used
    flat = unwrap_half(mean[half.used], half.faces, half.flat, on_midline, magnify[half.used])
    whole = np.zeros((len(mean), 2))
    whole[maps.mirror[half.used]] = flat * [-1, 1]
    whole[half.used] = flat
    return to_unit_square(whole)


def scan_vertices(head: IctHead) -> Ints:
    """Returns the source vertices whose distance to a mesh is measured: the face near the nose, without its holes."""
    sheet = np.unique(head.quads[head.material == head.material_names.index("M_Face")])
    tip = head.verts[LANDMARK_VERTS[30]]
    return sheet[np.linalg.norm(head.verts[sheet] - tip, axis=1) <= FACE_RADIUS_MM]


def representation_error(
    head: IctHead, maps: Resampling, mean: Floats, identity: Floats, modes: tuple[int, ...], people: int, seed: int
) -> dict[str, float]:
    """Returns the median distance of held-out faces to the best faces of the prior with so many modes, millimetres.

    Held-out faces are random draws of the source's own 100 modes, measured at the source's vertices.
    """
    rng = np.random.default_rng(seed)
    scan = scan_vertices(head)
    flat = identity.reshape(len(identity), -1)
    size = (flat**2).sum(1)
    gaps: dict[str, list[float]] = {str(k): [] for k in modes}
    for _ in watched(range(people), "held-out faces measured"):
        person = head.verts + np.tensordot(rng.standard_normal(len(head.identity)), head.identity.astype(float), 1)
        coefficients = flat @ (maps.weights @ person - mean).ravel() / size
        for k in modes:
            verts = mean + (coefficients[:k] @ flat[:k]).reshape(mean.shape)
            gaps[str(k)].append(float(np.median(point_to_mesh_mm(person[scan], verts, maps.faces))))
    return {k: float(np.mean(v)) for k, v in gaps.items()}


def random_faces(identity: Floats, expression: Floats, count: int, seed: int, active: int = 3) -> Floats:
    """Returns displacements (count, v, 3) of random faces: normal identities, a few expressions between 0 and 1."""
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((count, len(identity)))
    e = np.zeros((count, len(expression)))
    for row in e:
        few = min(active, len(expression))
        row[rng.choice(len(expression), few, replace=False)] = rng.random(few)
    moved = c @ identity.reshape(len(identity), -1) + e @ expression.reshape(len(expression), -1)
    return np.asarray(moved.reshape(count, -1, 3))


def folded_triangles(
    head: IctHead, surface: HalfSurface, maps: Resampling, count: int, seed: int, active: int = 3
) -> NDArray[np.bool_]:
    """Tells for the mean and `count` random faces which triangles of the left half look against the source.

    The source's normal is the mean over sixteen points of the triangle, of the source deformed in the same way;
    points count less the further they lie from the triangle, as the depth of the nostrils does.

    Returns:
        One row for the mean, then one a face, over the triangles of `maps.half.faces`.
    """
    half = maps.half
    up, right = (np.stack(np.meshgrid(np.arange(4), np.arange(4))).reshape(2, -1) + 0.4) / 4
    bary = np.stack([up, right], axis=1)
    bary = np.where(bary.sum(1, keepdims=True) > 1, 1 - bary, bary)
    bary = np.c_[1 - bary.sum(1), bary]
    points = np.einsum("pk,fkd->fpd", bary, half.flat[half.faces]).reshape(-1, 2)
    triangle, inside_it = half.chart.locate(points)
    below = triangle.reshape(len(half.faces), -1)
    _, names = expression_modes(head, maps)
    kept = head.expression[[head.expression_names.index(name) for name in names]]
    identity = np.stack([surface.weights @ m for m in head.identity.astype(float)])
    expression = np.stack([surface.motion @ m for m in kept.astype(float)])
    moved = random_faces(identity, expression, count, seed, active)
    out = []
    for offset in watched(np.concatenate([np.zeros_like(moved[:1]), moved]), "faces looked at for folds"):
        source = surface.verts + offset
        verts = half.chart.at(source, half.triangle, half.bary)
        want = cross_products(source, surface.faces)
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        normal = cross_products(verts, half.faces)
        ground = half.chart.at(source, triangle, inside_it).reshape(*below.shape, 3) - verts[half.faces[:, :1]]
        height = np.einsum("fpd,fd->fp", ground, normal) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)[:, None]
        facing = np.einsum("fpd,fd->fp", want[below], normal)
        out.append((facing * np.exp(-(height**2))).sum(1) <= 0)
    return np.array(out)


def build_prior(head: IctHead, output: Path, notice: str, command: str, people: int, seed: int) -> dict[str, str]:
    """Wraps, measures and writes the prior.

    Args:
        head: the source model.
        output: file to write (safetensors).
        notice: the source's licence text, kept in the file.
        command: command line to record.
        people: number of held-out faces to measure.
        seed: of the held-out faces.

    Returns:
        The metadata written into the file.
    """
    surface = half_surface(head)
    maps = resample(head, hemisphere(), surface)
    mean = symmetric_mean(head, maps)
    identity, _ = identity_modes(head, maps)
    expression, names = expression_modes(head, maps)
    landmarks = landmark_verts(maps)
    regions = label_regions(mean, maps, landmarks)
    uv = texture_layout(mean, maps, regions)
    gap = point_to_mesh_mm(head.verts[scan_vertices(head)], mean, maps.faces)
    counts = tuple(k for k in (10, 20, 40, len(identity)) if k <= len(identity))
    folded = {n: folded_triangles(head, surface, maps, FOLD_FACES, seed, n).sum(1) * 2 for n in (0, 3)}
    figures = {
        "mean_to_source_mm": {"median": float(np.median(gap)), "p95": float(np.percentile(gap, 95))},
        "held_out_scan_to_mesh_median_mm": representation_error(head, maps, mean, identity, counts, people, seed),
        "held_out_people": people,
        "seed": seed,
        "smallest_angle_deg": float(smallest_angles_deg(mean, maps.faces).min()),
        "folded_triangles": {
            "mean": int(folded[0][0]),
            "faces": FOLD_FACES,
            "identities": {"average": float(folded[0][1:].mean()), "most": int(folded[0][1:].max())},
            "with_three_expressions": {"average": float(folded[3][1:].mean()), "most": int(folded[3][1:].max())},
        },
        "folded_uv_triangles": int((signed_areas(uv, maps.faces) <= 0).sum()),
    }
    tensors = {
        "mean": torch.from_numpy(mean).float(),
        "faces": torch.from_numpy(maps.faces).to(torch.int16),
        "identity": torch.from_numpy(identity).half(),
        "expression": torch.from_numpy(expression).half(),
        "expression_bounds": torch.tensor([[0.0, 1.0]]).repeat(len(names), 1),
        "landmark_verts": torch.from_numpy(landmarks).to(torch.int16),
        "contour_verts": torch.from_numpy(contour_candidates(mean, landmarks)).to(torch.int16),
        "mirror_verts": torch.from_numpy(maps.mirror).to(torch.int16),
        "regions": torch.from_numpy(regions).to(torch.uint8),
        "uv": torch.from_numpy(uv).float(),
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "source": "ICT-FaceKit (USC Institute for Creative Technologies)",
        "licence": notice,
        "units": "millimetres, canonical face space",
        "command": command,
        "expression_names": json.dumps(names),
        "figures": json.dumps(figures, sort_keys=True),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, output, metadata)
    return metadata
