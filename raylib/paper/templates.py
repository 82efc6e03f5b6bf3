"""Meshes that the paper's networks deform or imitate: sphere, hemisphere, teapot, and any OBJ file.

They stay in their own units, +y up and +z to the viewer, about one unit in radius; not canonical face space.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float

from raylib.errors import ConfigError
from raylib.geometry.mesh import TemplateMesh, unique_edges
from raylib.geometry.subdivision import hemisphere

# The Utah teapot (Martin Newell, 1975) as cubic Bezier patches; z is up here. Body, lid and bottom are surfaces of
# revolution: radius and height of the control points of their profiles, from the outside of the pot's rim downwards
# and from the lid's knob outwards. Newell's quarter circle has its inner control points at 0.56.
_PROFILES = (
    ((1.4, 2.4), (1.3375, 2.53125), (1.4375, 2.53125), (1.5, 2.4)),
    ((1.5, 2.4), (1.75, 1.875), (2.0, 1.35), (2.0, 0.9)),
    ((2.0, 0.9), (2.0, 0.45), (1.5, 0.225), (1.5, 0.15)),
    ((1.5, 0.15), (1.5, 0.075), (1.425, 0.0), (0.0, 0.0)),
    ((0.0, 3.15), (0.8, 3.15), (0.0, 2.85), (0.2, 2.7)),
    ((0.2, 2.7), (0.4, 2.55), (1.3, 2.55), (1.3, 2.4)),
)
_QUARTER = ((1.0, 0.0), (1.0, 0.56), (0.56, 1.0), (0.0, 1.0))

# Handle and spout: for each of the four rows of a patch its upper or inner point, its lower or outer point (x, z),
# and how far the two middle control points stand to the side. The other half is the mirror image.
_HANDLE = (
    (((-1.6, 2.025), (-1.5, 2.25), 0.3), ((-2.3, 2.025), (-2.5, 2.25), 0.3),
     ((-2.7, 2.025), (-3.0, 2.25), 0.3), ((-2.7, 1.8), (-3.0, 1.8), 0.3)),
    (((-2.7, 1.8), (-3.0, 1.8), 0.3), ((-2.7, 1.575), (-3.0, 1.35), 0.3),
     ((-2.5, 1.125), (-2.65, 0.9375), 0.3), ((-2.0, 0.9), (-1.9, 0.6), 0.3)),
)  # fmt: skip
_SPOUT = (
    (((1.7, 1.425), (1.7, 0.6), 0.66), ((2.6, 1.425), (3.1, 0.825), 0.66),
     ((2.3, 2.1), (2.4, 2.025), 0.25), ((2.7, 2.4), (3.3, 2.4), 0.25)),
    (((2.7, 2.4), (3.3, 2.4), 0.25), ((2.8, 2.475), (3.525, 2.49375), 0.25),
     ((2.9, 2.475), (3.45, 2.5125), 0.15), ((2.8, 2.4), (3.2, 2.4), 0.15)),
)  # fmt: skip


@lru_cache(maxsize=4)
def ico_sphere(levels: int = 4) -> TemplateMesh:
    """Returns the unit sphere as an icosahedron subdivided at its edges' middles.

    Args:
        levels: number of subdivisions; 4 give 2562 vertices and 5120 triangles.
    """
    golden = (1 + 5**0.5) / 2
    corners = [(0, 1, golden), (0, -1, golden), (0, 1, -golden), (0, -1, -golden)]
    verts = torch.tensor([p[i:] + p[:i] for i in range(3) for p in corners], dtype=torch.float64)
    distance = torch.cdist(verts, verts)
    a, b, c = torch.combinations(torch.arange(12), 3).T
    side = torch.stack([distance[a, b], distance[b, c], distance[c, a]])
    faces = torch.stack([a, b, c], dim=1)[(side < 2.1).all(0)]
    p, q, r = verts[faces].unbind(1)
    outward = (torch.linalg.cross(q - p, r - p) * p).sum(1)
    faces = torch.where(outward[:, None] > 0, faces, faces.flip(1))
    verts = torch.nn.functional.normalize(verts, dim=1)
    for _ in range(levels):
        edges = unique_edges(faces)
        number = {tuple(edge): len(verts) + i for i, edge in enumerate(edges.tolist())}
        middle = torch.tensor(
            [[number[min(p, q), max(p, q)] for p, q in ((x, y), (y, z), (z, x))] for x, y, z in faces.tolist()]
        )
        (x, y, z), (xy, yz, zx) = faces.unbind(1), middle.unbind(1)
        faces = torch.cat([torch.stack(t, 1) for t in ((x, xy, zx), (xy, y, yz), (zx, yz, z), (xy, yz, zx))])
        verts = torch.cat([verts, torch.nn.functional.normalize(verts[edges].sum(1), dim=1)])
    return TemplateMesh(verts.float(), faces)


def _patches() -> list[Float[np.ndarray, "4 4 3"]]:
    """Returns control points of all patches, rows along the profile or the tube, z up."""
    patches = []
    for profile in _PROFILES:
        for turn in range(4):
            angle = turn * np.pi / 2
            spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            around = np.array(_QUARTER) @ spin.T
            patches.append(np.array([[(r * x, r * y, z) for x, y in around] for r, z in profile]))
    for tube in (*_HANDLE, *_SPOUT):
        for sign in (1, -1):
            rows = []
            for (ax, az), (bx, bz), wide in tube:
                rows.append([(ax, 0, az), (ax, sign * wide, az), (bx, sign * wide, bz), (bx, 0, bz)])
            # The mirror image turns the patch inside out, unless its columns run the other way.
            patches.append(np.array(rows if sign > 0 else [row[::-1] for row in rows], dtype=float))
    return patches


@lru_cache(maxsize=4)
def teapot(steps: int = 10) -> TemplateMesh:
    """Returns the Utah teapot, the spout to +x, centred, its farthest point at distance 1.

    Handle and spout run into the body; the pot is open under the lid's edge, as Newell's.

    Args:
        steps: edges along each side of a Bezier patch.
    """
    t = np.linspace(0, 1, steps + 1)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    i, j = np.meshgrid(np.arange(steps), np.arange(steps), indexing="ij")
    a = (i * (steps + 1) + j).ravel()
    quads = np.stack([a, a + 1, a + steps + 2, a + steps + 1], axis=1)
    triangles = np.concatenate([quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]])
    points, faces = [], []
    for number, patch in enumerate(_patches()):
        points.append(np.einsum("ui,ijc,vj->uvc", basis, patch, basis).reshape(-1, 3))
        faces.append(triangles + number * (steps + 1) ** 2)
    mesh = trimesh.Trimesh(np.concatenate(points), np.concatenate(faces), process=False)
    mesh.merge_vertices(digits_vertex=6)
    mesh.update_faces(mesh.nondegenerate_faces())
    mesh.remove_unreferenced_vertices()
    verts = np.asarray(mesh.vertices)[:, [0, 2, 1]] * [1, 1, -1]
    verts = verts - (verts.min(0) + verts.max(0)) / 2
    verts /= np.linalg.norm(verts, axis=1).max()
    return TemplateMesh(torch.from_numpy(verts).float(), torch.from_numpy(np.array(mesh.faces)))


def _from_file(path: Path) -> TemplateMesh:
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:
        raise ConfigError(f"template {str(path)!r} cannot be read: {error}") from error
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ConfigError(f"template {str(path)!r} has no triangles, expected an OBJ file with a mesh")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    verts = torch.from_numpy(np.array(mesh.vertices, dtype=np.float32))
    verts = verts - (verts.amin(0) + verts.amax(0)) / 2
    return TemplateMesh(verts / verts.norm(dim=1).max(), torch.from_numpy(np.array(mesh.faces, dtype=np.int64)))


def load_template(name: str) -> TemplateMesh:
    """Returns a template by its name: "sphere", "hemisphere" or "teapot", or the path of a mesh file.

    The hemisphere has 2113 vertices and its pole to the viewer, the sphere 2562. A file's mesh is centred and scaled
    until its farthest vertex is at distance 1.

    Raises:
        ConfigError: the file cannot be read.
    """
    if name == "hemisphere":
        half = hemisphere()
        return TemplateMesh(half.verts, half.faces)
    if name == "sphere":
        return ico_sphere()
    return teapot() if name == "teapot" else _from_file(Path(name))
