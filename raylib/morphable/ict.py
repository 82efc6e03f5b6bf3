"""ICT-FaceKit as its authors distribute it, or packed into one array file.

Li et al. 2020, Learning Formation of Physically-Based Face Attributes. The model is in centimetres, right-handed,
y up, z out of the face; identity modes are one standard deviation, expressions are blendshapes of strength 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_VERTS = 26719
HEAD_VERTS = 11248
"""Face, head and neck come first; teeth, eyeballs and lashes follow."""

# fmt: off
LANDMARK_VERTS = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443,
    268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147,
    4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081,
    0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
# fmt: on
"""Vertices of the 68 landmarks in Multi-PIE order, as the model's own `vertex_indices.json` lists them."""

_NEUTRAL = "generic_neutral_mesh.obj"


@dataclass(frozen=True)
class IctFaceKit:
    """The model's arrays, centimetres.

    Attributes:
        neutral: (26719, 3) mean head.
        quads: (f, 4) vertices of each face, the last one -1 in a triangle.
        material: (f,) index into `material_names`.
        material_names: names of the parts.
        identity: (k, 26719, 3) displacement of one standard deviation a mode.
        expression: (e, 26719, 3) displacement of each blendshape at full strength.
        expression_names: their names.
        files: the files that were read.
    """

    neutral: NDArray[np.float64]
    quads: NDArray[np.int64]
    material: NDArray[np.int64]
    material_names: tuple[str, ...]
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    expression_names: tuple[str, ...]
    files: tuple[Path, ...]


def read_ict(path: Path) -> IctFaceKit:
    """Returns the model from its `FaceXModel` folder of OBJ files or from an array file (.npz).

    In the folder generic_neutral_mesh.obj is the mean, identityNNN.obj lie one standard deviation away from it, and
    every other OBJ is an expression at full strength. The array file holds neutral, faces (quads, -1 for the fourth
    vertex of a triangle), material, material_names, identity, expression and expression_names.

    Raises:
        ValueError: the path holds something else; the text says what is wrong.
        OSError: it cannot be read.
    """
    kit = _read_folder(path) if path.is_dir() else _read_arrays(path)
    if kit.neutral.shape != (N_VERTS, 3):
        raise ValueError(f"its mean has shape {kit.neutral.shape} where ICT-FaceKit has ({N_VERTS}, 3)")
    return kit


def _read_arrays(path: Path) -> IctFaceKit:
    with np.load(path) as data:
        wanted = ("neutral", "faces", "material", "material_names", "identity", "expression", "expression_names")
        missing = [key for key in wanted if key not in data]
        if missing:
            raise ValueError(f"it has no array {missing[0]}")
        return IctFaceKit(
            data["neutral"].astype(np.float64),
            data["faces"].astype(np.int64),
            data["material"].astype(np.int64),
            tuple(str(name) for name in data["material_names"]),
            data["identity"].astype(np.float32),
            data["expression"].astype(np.float32),
            tuple(str(name) for name in data["expression_names"]),
            (path,),
        )


def _read_folder(path: Path) -> IctFaceKit:
    neutral_file = path / _NEUTRAL
    identity_files = sorted(path.glob("identity[0-9]*.obj"))
    if not neutral_file.is_file() or not identity_files:
        raise ValueError("the files are missing")
    expression_files = sorted(set(path.glob("*.obj")) - {neutral_file, *identity_files})
    neutral = _obj_verts(neutral_file)
    quads: list[list[int]] = []
    material: list[int] = []
    names: list[str] = []
    for line in neutral_file.read_text("utf-8").splitlines():
        if line.startswith("usemtl "):
            name = line.split(maxsplit=1)[1].strip()
            names += [name] if name not in names else []
            current = names.index(name)
        elif line.startswith("f "):
            corners = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
            quads.append([*corners, -1][:4])
            material.append(current if names else 0)
    return IctFaceKit(
        neutral,
        np.array(quads, dtype=np.int64),
        np.array(material, dtype=np.int64),
        tuple(names or ["M_Face"]),
        _displacements(identity_files, neutral),
        _displacements(expression_files, neutral),
        tuple(file.stem for file in expression_files),
        (neutral_file, *identity_files, *expression_files),
    )


def _displacements(files: list[Path], neutral: NDArray[np.float64]) -> NDArray[np.float32]:
    out = np.zeros((len(files), *neutral.shape), dtype=np.float32)
    for i, file in enumerate(files):
        verts = _obj_verts(file)
        if verts.shape != neutral.shape:
            raise ValueError(f"{file.name} has {len(verts)} vertices where the mean has {len(neutral)}")
        out[i] = verts - neutral
    return out


def _obj_verts(path: Path) -> NDArray[Any]:
    lines = [line[2:] for line in path.read_bytes().split(b"\n") if line.startswith(b"v ")]
    return np.array(b" ".join(lines).split(), dtype=np.float64).reshape(len(lines), 3)
