"""The rest of the head around the shipped prior: ears, skull, neck and shoulders, from ICT-FaceKit.

Everything of the ICT head that lies outside the prior's outline is kept and made coarse: vertices are merged into
their neighbours, so that each that is left is one of ICT's and follows its modes. Along the prior's rim a strip of
the head goes on below the face, so that no gap opens between the two.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from raylib.morphable.model import LinearFaceModel
from raylib.morphable.registration.ict import IctHead
from raylib.morphable.registration.source import inside_outline, split_quads
from raylib.morphable.registration.transfer import identity_map

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FORMAT_VERSION = "1"
VERTS = 1500
"""Vertices that are left of the rest of the head."""
IDENTITY_COMPONENTS = 64
EXPRESSION_COMPONENTS = 12
TUCK_MM = 1.2
"""How far the strip below the face's rim lies under it."""
_STRIP_RINGS = 2
_EAR_WEIGHT = 6.0  # the error of merging counts more at the ears, which are small and finely shaped
_FLATTEST = 0.2  # least cosine between a triangle's normals before and after a merge
_PARTS = ("M_Face", "M_BackHead")


@dataclass(frozen=True)
class Surround:
    """The rest of the head on the mean face.

    Attributes:
        ict_vertex: the ICT vertex that each vertex copies.
        faces: triangles.
        tucked: displacement of each vertex from its place on the ICT head, millimetres.
    """

    ict_vertex: Ints
    faces: Ints
    tucked: Floats


def surround(head: IctHead, target: int = VERTS) -> Surround:
    """Returns the head without the face, made coarse to about `target` vertices."""
    parts = [head.material_names.index(name) for name in _PARTS]
    faces = split_quads(head.quads[np.isin(head.material, parts)], head.verts)
    within = inside_outline(head.verts) > 0
    seed = int(np.argmax(head.verts[:, 2] * within))  # the tip of the nose
    face_part = _component(faces[within[faces].all(1)], seed, len(head.verts))
    outside = faces[~face_part[faces].all(1)]
    # A strip of the face goes on below the rim.
    strip = outside
    for _ in range(_STRIP_RINGS):
        touched = np.zeros(len(head.verts), bool)
        touched[strip] = True
        strip = faces[touched[faces].any(1)]
    normals = _vertex_normals(head.verts, faces)
    depth = np.where(face_part, TUCK_MM, 0.0)
    rim = np.intersect1d(np.unique(outside), np.flatnonzero(face_part))
    depth[rim] = TUCK_MM / 2
    ears = (np.abs(head.verts[:, 0]) > 70) & (head.verts[:, 1] > -50) & (head.verts[:, 1] < 40)
    kept = _merge(head.verts, strip, np.where(ears, _EAR_WEIGHT, 1.0), target)
    used = np.unique(kept)
    return Surround(used, np.searchsorted(used, kept), -(normals * depth[:, None])[used])


def build_surround(
    head: IctHead, prior: LinearFaceModel, output: Path, notice: str, command: str
) -> dict[str, float]:
    """Writes the rest of the head with its modes in terms of the prior's coefficients, and returns its figures.

    Args:
        head: ICT-FaceKit.
        prior: the shipped prior, made from the same model.
        output: file to write (safetensors).
        notice: the source's licence text, kept in the file.
        command: command line to record.
    """
    rest = surround(head)
    mean = head.verts[rest.ict_vertex] + rest.tucked
    to_prior = identity_map(prior, head.verts[: head.identity.shape[1]], _all_faces(head), head.identity)
    # ICT's coefficients are c' @ to_prior^-1; the map is orthogonal up to the error of resampling.
    modes = np.einsum("pk,kvc->pvc", np.linalg.pinv(to_prior.matrix), head.identity[:, rest.ict_vertex].astype(float))
    identity, mix, lost = _components(modes, IDENTITY_COMPONENTS)
    named = [i for i, name in enumerate(head.expression_names) if not name.startswith("PupilDilate")]
    moves = head.expression[named][:, rest.ict_vertex].astype(float)
    expression, motion_mix, motion_lost = _components(moves, EXPRESSION_COMPONENTS)
    figures = {"identity_rms_lost_mm": lost, "expression_rms_lost_mm": motion_lost, "verts": float(len(mean))}
    tensors = {
        "mean": torch.tensor(mean, dtype=torch.float32),
        "faces": torch.tensor(rest.faces, dtype=torch.int16),
        "identity": torch.tensor(identity, dtype=torch.float16),
        "identity_mix": torch.tensor(mix, dtype=torch.float32),
        "expression": torch.tensor(expression, dtype=torch.float16),
        "expression_mix": torch.tensor(motion_mix, dtype=torch.float32),
    }
    metadata = {"format": FORMAT_VERSION, "notice": notice, "command": command, "figures": repr(figures)}
    save_file(tensors, output, metadata)
    return figures


def _all_faces(head: IctHead) -> Ints:
    parts = [head.material_names.index(name) for name in _PARTS]
    return split_quads(head.quads[np.isin(head.material, parts)], head.verts)


def _components(modes: Floats, count: int) -> tuple[Floats, Floats, float]:
    """Returns (count, v, 3) components, the (k, count) mix that makes the modes of them, and what is lost.

    The loss is the root mean square over vertices of the displacement for coefficients of one standard deviation.
    """
    flat = modes.reshape(len(modes), -1)
    u, size, axes = np.linalg.svd(flat, full_matrices=False)
    lost = np.sqrt((size[count:] ** 2).sum() / modes.shape[1])
    return (axes[:count]).reshape(count, -1, 3), u[:, :count] * size[:count], float(lost)


def _component(faces: Ints, seed: int, n: int) -> NDArray[np.bool_]:
    rows = np.concatenate([faces[:, 0], faces[:, 1]])
    graph = sp.coo_matrix((np.ones(len(rows)), (rows, np.concatenate([faces[:, 1], faces[:, 2]]))), shape=(n, n))
    label = sp.csgraph.connected_components(graph, directed=False)[1]
    part: NDArray[np.bool_] = label == label[seed]
    return part


def _vertex_normals(verts: Floats, faces: Ints) -> Floats:
    a, b, c = (verts[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.zeros_like(verts)
    for k in range(3):
        np.add.at(total, faces[:, k], cross)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


def _merge(verts: Floats, faces: Ints, weight: Floats, target: int) -> Ints:
    """Returns the triangles after merging vertices into neighbours, the least error first.

    The error is the sum of squared distances to the planes of the triangles merged so far (Garland and Heckbert 1997,
    Surface simplification using quadric error metrics), a vertex keeping its place. Boundary vertices stay.
    """
    a, b, c = (verts[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    normal = cross / np.maximum(area, 1e-12)[:, None]
    plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], axis=1)
    quadric = np.zeros((len(verts), 4, 4))
    outer = plane[:, :, None] * plane[:, None, :] * area[:, None, None]
    for k in range(3):
        np.add.at(quadric, faces[:, k], outer)
    quadric *= weight[:, None, None]
    around: list[set[int]] = [set() for _ in range(len(verts))]
    for f, corners in enumerate(faces):
        for v in corners:
            around[v].add(f)
    faces = faces.copy()
    alive = np.ones(len(faces), bool)
    point = np.concatenate([verts, np.ones((len(verts), 1))], axis=1)

    def neighbours(v: int) -> set[int]:
        return {int(w) for f in around[v] for w in faces[f]} - {v}

    def cost(v: int, into: int) -> float:
        spread = 1e-3 * float(((verts[v] - verts[into]) ** 2).sum()) * weight[v]
        return float(point[into] @ (quadric[v] + quadric[into]) @ point[into]) + spread

    sides = {(int(f[i]), int(f[i - 2])) for f in faces for i in range(3)}
    fixed = {v for side in sides if side[::-1] not in sides for v in side}
    left = len(np.unique(faces))
    heap = [(cost(v, w), v, w) for v in map(int, np.unique(faces)) if v not in fixed for w in neighbours(v)]
    heapq.heapify(heap)
    gone: set[int] = set()
    while left > target and heap:
        error, v, w = heapq.heappop(heap)
        if v in gone or w in gone or w not in neighbours(v):
            continue
        if cost(v, w) > error + 1e-9:
            heapq.heappush(heap, (cost(v, w), v, w))
            continue
        if len(neighbours(v) & neighbours(w)) != 2 or not _stays_upright(verts, faces, around[v] - around[w], v, w):
            continue
        for f in list(around[v]):
            if w in faces[f]:
                alive[f] = False
                for x in faces[f]:
                    around[x].discard(f)
            else:
                faces[f][faces[f] == v] = w
                around[w].add(f)
        quadric[w] += quadric[v]
        gone.add(v)
        left -= 1
        for x in neighbours(w):
            if x not in fixed:
                heapq.heappush(heap, (cost(x, w), x, w))
            if w not in fixed:
                heapq.heappush(heap, (cost(w, x), w, x))
    return faces[alive]


def _stays_upright(verts: Floats, faces: Ints, moved: set[int], v: int, w: int) -> bool:
    for f in moved:
        old = verts[faces[f]]
        new = verts[np.where(faces[f] == v, w, faces[f])]
        n0, n1 = np.cross(old[1] - old[0], old[2] - old[0]), np.cross(new[1] - new[0], new[2] - new[0])
        if n0 @ n1 < _FLATTEST * np.linalg.norm(n0) * np.linalg.norm(n1):
            return False
    return True
