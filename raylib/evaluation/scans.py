"""Meshes and scans as OBJ or PLY files, each with its seven landmarks in a small text file beside it.

    # head.landmarks, beside head.obj or head.ply
    unit mm
    image photographs/head-1.jpg
    right_eye_outer  -44.6   0.0   0.0
    right_eye_inner  -18.4  -1.8   5.9
    left_eye_inner    18.4  -1.8   5.9
    left_eye_outer    44.6   0.0   0.0
    nose_base          0.0 -46.4  29.6
    mouth_right      -25.3 -69.5  15.8
    mouth_left        25.3 -69.5  15.8
    nose_tip           0.0 -30.3  44.7

Left and right are the subject's. Coordinates are in the file's own frame and unit, which is mm unless `unit` says cm
or m. `nose_tip` may be missing: then it is the point near the nose's base that lies farthest out of the face. Each
`image` line names a photograph of the face, seen from the text file's folder; a reconstruction made from it is called
after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Int
from numpy.typing import NDArray

from raylib.errors import ConfigError
from raylib.geometry.landmarks68 import NOSE_TIP

Array = NDArray[Any]

LANDMARK_NAMES = {
    "right_eye_outer": 36,
    "right_eye_inner": 39,
    "left_eye_inner": 42,
    "left_eye_outer": 45,
    "nose_base": 33,
    "mouth_right": 48,
    "mouth_left": 54,
    "nose_tip": NOSE_TIP,
}
"""Names in the text file and their numbers among the 68 landmarks."""

_UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_NOSE_REACH_MM = 35.0


@dataclass(frozen=True)
class LandmarkedMesh:
    """A mesh or cloud of points with its landmarks, millimetres.

    Attributes:
        name: path of the files without suffix, below the folder they were found in.
        images: paths of its photographs.
        verts: vertices.
        faces: triangles; none for a cloud of points.
        landmarks: the 68 landmarks, NaN but for those of the file and the nose tip.
    """

    name: str
    images: tuple[Path, ...]
    verts: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    landmarks: Float[np.ndarray, "68 3"]


def landmark_files(folder: Path) -> list[Path]:
    """Returns the landmark files below a folder, sorted."""
    return sorted(folder.rglob("*.landmarks"))


def read_landmarked(path: Path, folder: Path) -> LandmarkedMesh:
    """Returns the mesh that a landmark file belongs to.

    Args:
        path: the landmark file.
        folder: where names start.

    Raises:
        ConfigError: the text has a line that says nothing known, a landmark is missing, or there is no mesh.
    """
    marks = np.full((68, 3), np.nan)
    images, unit = [], 1.0
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == "unit":
                unit = _UNITS[words[1]]
            elif words[0] == "image":
                images.append(path.parent / line.split(maxsplit=1)[1].strip())
            else:
                x, y, z = (float(word) for word in words[1:])
                marks[LANDMARK_NAMES[words[0]]] = x, y, z
        except (KeyError, ValueError, IndexError):
            expected = f"'unit mm|cm|m', 'image FILE' or one of {', '.join(LANDMARK_NAMES)} with three numbers"
            raise ConfigError(f"line {number} of {str(path)!r} is {line.strip()!r}, expected {expected}") from None
    missing = [name for name, i in LANDMARK_NAMES.items() if i != NOSE_TIP and not np.isfinite(marks[i]).all()]
    if missing:
        raise ConfigError(f"{str(path)!r} has no finite {missing[0]}, expected the seven landmarks of the alignment")
    verts, faces = _read_mesh(path)
    verts, marks = verts * unit, marks * unit
    if not np.isfinite(marks[NOSE_TIP]).all():
        marks[NOSE_TIP] = _nose_tip(verts, marks)
    name = path.relative_to(folder).with_suffix("").as_posix()
    return LandmarkedMesh(name, tuple(images), verts, faces, marks)


def _read_mesh(path: Path) -> tuple[Array, Array]:
    for suffix in (".obj", ".ply"):
        file = path.with_suffix(suffix)
        if file.is_file():
            try:
                verts, faces = read_obj(file) if suffix == ".obj" else _read_ply(file)
            except Exception as error:
                raise ConfigError(f"{str(file)!r} is no mesh: {type(error).__name__}: {error}") from error
            if not len(verts) or not np.isfinite(verts).all():
                raise ConfigError(f"{str(file)!r} has no vertices or some that are not finite")
            return verts, faces
    raise ConfigError(f"{str(path)!r} has no .obj or .ply beside it")


def read_obj(path: Path) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Returns vertices in the file's order and triangles of an OBJ; polygons become fans.

    trimesh would reorder vertices at the seams of a texture, and correspondence with them.
    """
    verts: list[list[str]] = []
    faces: list[tuple[int, int, int]] = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("v "):
            verts.append(line.split()[1:4])
        elif line.startswith("f "):
            corners = [int(word.split("/")[0]) for word in line.split()[1:]]
            corners = [c - 1 if c > 0 else len(verts) + c for c in corners]
            faces += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
    triangles = np.array(faces, dtype=np.int64).reshape(-1, 3)
    if len(triangles) and not 0 <= triangles.min() <= triangles.max() < len(verts):
        raise ValueError(f"a triangle names a vertex outside of its {len(verts)}")
    return np.array(verts, dtype=np.float64).reshape(-1, 3), triangles


def _read_ply(path: Path) -> tuple[Array, Array]:
    mesh: Any = trimesh.load(path, process=False)
    faces = np.asarray(getattr(mesh, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
    return np.asarray(mesh.vertices, dtype=np.float64), faces


def _nose_tip(verts: Array, marks: Array) -> Array:
    """Returns the point around the nose's base that lies farthest out of the plane of eyes and mouth."""
    eyes, mouth = marks[[36, 39, 42, 45]].mean(0), marks[[48, 54]].mean(0)
    out = np.cross(marks[45] - marks[36], eyes - mouth)
    near = verts[np.linalg.norm(verts - marks[33], axis=1) < _NOSE_REACH_MM]
    return near[(near @ out).argmax()] if len(near) else marks[33]
