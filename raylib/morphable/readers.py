"""Readers of published linear face models; each ends in canonical space and millimetres (see `canonical`)."""

from __future__ import annotations

import json
import struct
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from raylib.errors import ConfigError
from raylib.geometry.landmarks68 import OUTER_EYE
from raylib.morphable import ict
from raylib.morphable import model as morphable
from raylib.morphable.canonical import canonical_model, millimetre_scale, transfer_landmarks
from raylib.morphable.model import LinearFaceModel

Array = NDArray[Any]

_READ_ERRORS = (
    *(OSError, KeyError, ValueError, IndexError, TypeError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, scipy.io.matlab.MatReadError),
)


def load_model(spec: str) -> LinearFaceModel:
    """Returns the linear face model that `--morphable-model` names.

    Args:
        spec: "prior" for the shipped face prior, or a path: the Surrey Face Model (`.bin`, its landmark map,
            contours and blendshapes beside it), BFM 2009 (`.mat`), BFM 2017 or 2019 (`.h5`), ICT-FaceKit (folder of
            OBJ files, or `.npz` array file).

    Raises:
        ConfigError: the path does not exist or holds something else.
    """
    if spec == "prior":
        return morphable.load_prior()
    path = Path(spec).expanduser()
    if not path.exists():
        raise ConfigError(f"morphable_model is {spec!r}, which does not exist; expected 'prior' or a model file")
    reader: Callable[[Path], LinearFaceModel]
    if path.is_dir():
        reader, kind = read_ict_model, "an ICT-FaceKit folder with generic_neutral_mesh.obj and identity000.obj"
    elif path.suffix.lower() in _READERS:
        reader, kind = _READERS[path.suffix.lower()]
    else:
        known = "SFM .bin, BFM .mat or .h5, ICT-FaceKit folder or .npz"
        raise ConfigError(f"morphable_model {spec!r} has an unknown suffix, expected 'prior' or one of {known}")
    try:
        return reader(path)
    except ConfigError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"morphable_model {spec!r} is not {kind}: {reason}") from error


# --- Surrey Face Model --------------------------------------------------------------------------------------------


class _Cereal:
    """Cursor over the little-endian binary archives that the eos library writes with cereal."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def array(self, dtype: str, count: int) -> Array:
        end = self.at + np.dtype(dtype).itemsize * count
        if count < 0 or end > len(self.data):
            raise ValueError(f"needs {end} bytes where the file has {len(self.data)}")
        out = np.frombuffer(self.data, dtype, count, self.at)
        self.at = end
        return out

    def integer(self, dtype: str = "<i4") -> int:
        return int(self.array(dtype, 1)[0])

    def matrix(self) -> Array:
        """Reads an Eigen matrix: rows, columns, float32 in column-major order."""
        rows, cols = self.integer(), self.integer()
        return self.array("<f4", rows * cols).reshape(cols, rows).T

    def text(self) -> str:
        return self.array("u1", self.integer("<u8")).tobytes().decode("utf-8")


def read_sfm(path: Path) -> LinearFaceModel:
    """Reads the Surrey Face Model as eos ships it, with the blendshapes, landmark map and contours beside it.

    The shape file is a cereal archive: version, mean, orthonormal basis, eigenvalues (variances), triangles, a
    colour model of the same layout, texture coordinates. eos's format, its files and their names are described in
    its repository (Huber et al., VISAPP 2016).
    """
    archive = _Cereal(path.read_bytes())
    version = archive.integer()
    mean, basis, variances = archive.matrix(), archive.matrix(), archive.matrix()
    if (
        not 0 <= version < 100
        or mean.shape[1:] != (1,)
        or len(mean) % 3
        or basis.shape != (len(mean), variances.size)
    ):
        raise ValueError("its header is that of another file")
    n = len(mean) // 3
    faces = archive.array("<i4", archive.integer("<u8") * 3).reshape(-1, 3)
    uv = _read_sfm_uv(archive, n)

    folder = path.parent
    landmark_file, contour_file = folder / "ibug_to_sfm.txt", folder / "sfm_model_contours.json"
    shapes_file = folder / path.name.replace("sfm_shape", "expression_blendshapes")
    for needed in (landmark_file, contour_file):
        if not needed.is_file():
            raise ConfigError(f"morphable_model {str(path)!r} needs {needed.name} beside it, which is missing")
    landmark_verts = np.full(68, -1)
    for key, vertex in tomllib.loads(landmark_file.read_text("utf-8"))["landmark_mappings"].items():
        landmark_verts[int(key) - 1] = int(vertex)  # the file counts landmarks from 1, vertices from 0
    contour = json.loads(contour_file.read_text("utf-8"))["model_contour"]
    jaws = [np.asarray(contour[side], dtype=np.int64) for side in ("right_contour", "left_contour")]
    shapes = _read_blendshapes(shapes_file) if shapes_file != path and shapes_file.is_file() else np.zeros((0, n, 3))

    origin = mean.reshape(n, 3)[landmark_verts[list(OUTER_EYE)]].mean(0)
    jaw_verts = np.full(17, landmark_verts[8])
    # The contour lists run from the temple to the chin; landmarks 0..7 stand evenly from eye level to the chin.
    jaw_verts[:8] = _evenly_along(mean.reshape(n, 3) - origin, jaws[0], landmark_verts[8])
    jaw_verts[9:] = _evenly_along(mean.reshape(n, 3) - origin, jaws[1], landmark_verts[8])[::-1]
    return canonical_model(
        name="sfm",
        mean=mean.reshape(n, 3),
        faces=faces,
        identity=_scaled_modes(basis, np.sqrt(variances.ravel())),
        expression=shapes,
        expression_bounds=(0.0, 1.0),
        landmark_verts=landmark_verts,
        jaw_verts=jaw_verts,
        uv=uv,
        files=[path, *([shapes_file] if len(shapes) else [])],
    )


def _read_sfm_uv(archive: _Cereal, n: int) -> Array | None:
    """Skips the colour model and returns the texture coordinates, bottom left origin; None where there are none."""
    for _ in range(3):
        archive.matrix()
    archive.array("<i4", archive.integer("<u8") * 3)
    count = archive.integer("<u8")
    if count != n:
        return None
    uv = archive.array("<f8", 2 * n).reshape(n, 2)
    return np.stack([uv[:, 0], 1 - uv[:, 1]], 1)


def _read_blendshapes(path: Path) -> Array:
    """Returns eos's expression blendshapes: a cereal list of (name, displacement vector)."""
    archive = _Cereal(path.read_bytes())
    shapes = []
    for _ in range(archive.integer("<u8")):
        archive.text()
        shapes.append(archive.matrix().reshape(-1, 3))
    return np.stack(shapes)


def _evenly_along(verts: Array, contour: Array, chin: int) -> Array:
    """Returns the 8 contour vertices nearest to even steps of arc length from eye level (y = 0) to the chin."""
    line = np.append(contour[verts[contour, 1] < 8.0], chin)
    arc = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(verts[line], axis=0), axis=1)))
    return line[[int(np.abs(arc - arc[-1] * i / 8).argmin()) for i in range(8)]]


# --- Basel Face Model ---------------------------------------------------------------------------------------------


def read_bfm2009(path: Path) -> LinearFaceModel:
    """Reads the Basel Face Model 2009 (`01_MorphableModel.mat`).

    Fields: shapeMU (3n, 1) in micrometres, shapePC (3n, k) orthonormal, shapeEV (k, 1) standard deviations, tl
    (f, 3) counted from 1. It has no expressions and no landmarks; the 68 come from the shipped prior (see
    `transfer_landmarks`).
    """
    if h5py.is_hdf5(path):  # MATLAB 7.3; h5py sees MATLAB's column-major arrays transposed
        with h5py.File(path) as file:
            data = {key: np.asarray(file[key]).T for key in ("shapeMU", "shapePC", "shapeEV", "tl")}
    else:
        data = scipy.io.loadmat(path, variable_names=["shapeMU", "shapePC", "shapeEV", "tl"])
    missing = [key for key in ("shapeMU", "shapePC", "shapeEV", "tl") if key not in data]
    if missing:
        raise ValueError(f"it has no field {missing[0]}")
    modes = _scaled_modes(np.asarray(data["shapePC"]), np.asarray(data["shapeEV"]).ravel())
    mean = np.asarray(data["shapeMU"], dtype=np.float64).reshape(-1, 3)
    return _with_transferred_landmarks(
        "bfm2009", path, mean, np.asarray(data["tl"]).astype(np.int64) - 1, modes, np.zeros((0, len(mean), 3))
    )


def read_bfm2017(path: Path) -> LinearFaceModel:
    """Reads the Basel Face Model 2017 or 2019 (statismo HDF5), with its expression modes, millimetres.

    Groups shape and expression: model/mean (3n), model/pcaBasis (3n, k), model/pcaVariance (k); cells (3, f) in
    shape/representer. The mean face is the sum of both means. Its metadata names a few landmarks but not the 68,
    which come from the shipped prior (see `transfer_landmarks`).
    """
    with h5py.File(path) as file:
        mean = np.asarray(file["shape/model/mean"], dtype=np.float64).reshape(-1, 3)
        identity = _statismo_modes(file["shape/model"])
        expression = np.zeros((0, *mean.shape))
        if "expression/model" in file:
            mean = mean + np.asarray(file["expression/model/mean"], dtype=np.float64).reshape(-1, 3)
            expression = _statismo_modes(file["expression/model"])
        faces = np.asarray(file["shape/representer/cells"]).astype(np.int64).T
    return _with_transferred_landmarks("bfm2017", path, mean, faces, identity, expression)


def _statismo_modes(group: Any) -> Array:
    return _scaled_modes(np.asarray(group["pcaBasis"]), np.sqrt(np.asarray(group["pcaVariance"], np.float64)).ravel())


def _with_transferred_landmarks(
    name: str, path: Path, mean: Array, faces: Array, identity: Array, expression: Array
) -> LinearFaceModel:
    mean, scale = mean * millimetre_scale(mean), millimetre_scale(mean)
    landmark_verts = transfer_landmarks(morphable.load_prior(), mean)
    return canonical_model(
        name=name,
        mean=mean,
        faces=faces,
        identity=identity * scale,
        expression=expression * scale,
        expression_bounds=(-3.0, 3.0),  # standard deviations
        landmark_verts=landmark_verts,
        jaw_verts=landmark_verts[:17],
        uv=None,
        files=[path],
    )


# --- ICT-FaceKit --------------------------------------------------------------------------------------------------


def read_ict_model(path: Path) -> LinearFaceModel:
    """Reads ICT-FaceKit from its `FaceXModel` folder or an array file; see `raylib.morphable.ict`.

    Face, head and neck are kept; teeth, eyeballs and lashes are left out. Its texture coordinates are left out too:
    they lay face and head on two tiles, which a single texture cannot hold.
    """
    kit = ict.read_ict(path)
    n = ict.HEAD_VERTS
    quads = kit.quads[(kit.quads < n).all(1)]
    triangles = quads[:, 3] < 0
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[~triangles][:, [0, 2, 3]]])
    landmark_verts = np.array(ict.LANDMARK_VERTS)
    return canonical_model(
        name="ict",
        mean=kit.neutral[:n],
        faces=faces,
        identity=kit.identity[:, :n],
        expression=kit.expression[:, :n],
        expression_bounds=(0.0, 1.0),
        landmark_verts=landmark_verts,
        jaw_verts=landmark_verts[:17],
        uv=None,
        files=list(kit.files),
    )


def _scaled_modes(basis: Array, std: Array) -> Array:
    """Returns (k, v, 3) displacements of one standard deviation from basis columns of any length."""
    basis = basis.astype(np.float64)
    if basis.ndim != 2 or basis.shape[1] != len(std):
        raise ValueError(f"its basis has shape {basis.shape} for {len(std)} deviations")
    modes = basis / np.linalg.norm(basis, axis=0) * std
    return modes.T.reshape(len(std), -1, 3).astype(np.float32)


_READERS: dict[str, tuple[Callable[[Path], LinearFaceModel], str]] = {
    ".bin": (read_sfm, "a Surrey Face Model shape file (cereal binary)"),
    ".mat": (read_bfm2009, "a Basel Face Model 2009 file"),
    ".h5": (read_bfm2017, "a Basel Face Model 2017 or 2019 file (statismo HDF5)"),
    ".npz": (read_ict_model, "an ICT-FaceKit array file"),
}
