"""Readers of published linear face models; each ends in canonical space (see `camera`) and millimetres.

What every reader does after parsing its file (`canonical_model`):

- Unit: the power of ten that brings the mean's largest extent to 0.1 .. 1 m, so that micrometres (BFM 2009),
  millimetres (SFM, BFM 2017 and 2019), centimetres (ICT-FaceKit) and metres all end in millimetres.
- Orientation: the origin goes to the midpoint of the outer eye corners of the mean, the corners onto the x axis,
  and the head is turned about that axis until the mouth corners lie in the direction they have in ICT-FaceKit, so
  that yaw, pitch and roll mean the same whichever model was fitted.
- Triangles counter-clockwise seen from outside, identity modes of one standard deviation.
- Jaw: one line of candidate vertices for each of the landmarks 0..16 (`jaw_lines`).
"""

from __future__ import annotations

import hashlib
import json
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from raylib import morphable
from raylib.errors import ConfigError
from raylib.morphable import LinearFaceModel

Array = NDArray[Any]

OUTER_EYE = (36, 45)
MOUTH_CORNERS = (48, 54)
MOUTH_LEAN_DEG = 12.8
"""How far the line from the outer eye corners to the mouth corners (midpoints) leans out of the face in
ICT-FaceKit's mean, degrees; fixes the zero of pitch."""

_JAW_LINE_POINTS = 14
_JAW_LINE_END = 0.25  # a jaw line ends at this share of the landmark's distance from the plane of symmetry
_JAW_MAX_YAW_DEG = 65.0
_ICT_HEAD_VERTS = 11248  # face, head and neck come first in ICT-FaceKit; teeth, eyeballs and lashes follow
_ICT_ALL_VERTS = 26719

ICT_LANDMARK_VERTS = tuple(
    int(word)
    for word in """
    1225 1888 1052 367 1719 1722 2199 1447 966 3661 4390 3927 3924 2608 3272 4088 3443
    268 493 1914 2044 1401 3615 4240 4114 2734 2509 978 4527 4942 4857 1140 2075 1147 4269 3360
    1507 1542 1537 1528 1518 1511 3742 3751 3756 3721 3725 3732
    5708 5695 2081 0 4275 6200 6213 6346 6461 5518 5957 5841 5702 5711 5533 6216 6207 6470 5517 5966
    """.split()
)
"""ICT-FaceKit's vertices of the 68 landmarks (its own `idx_to_landmark_verts`)."""


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
    if path.is_dir():
        reader, kind = read_ict_folder, "an ICT-FaceKit folder with generic_neutral_mesh.obj and identity000.obj"
    elif path.suffix.lower() in _READERS:
        reader, kind = _READERS[path.suffix.lower()]
    else:
        known = "SFM .bin, BFM .mat or .h5, ICT-FaceKit folder or .npz"
        raise ConfigError(f"morphable_model {spec!r} has an unknown suffix, expected 'prior' or one of {known}")
    try:
        return reader(path)
    except ConfigError:
        raise
    except (OSError, KeyError, ValueError, IndexError, TypeError, NotImplementedError, struct.error) as error:
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
    mean, scale = mean * _to_millimetres(mean), _to_millimetres(mean)
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


def transfer_landmarks(reference: LinearFaceModel, mean: Array) -> Array:
    """Returns the vertices of `mean` that lie on the landmarks of `reference`, for models without a landmark map.

    The reference's mean face is laid onto `mean` by a similarity (iterated closest points, the farthest fifth of the
    pairs left out, started with both nose tips together); each landmark takes the nearest vertex.

    Args:
        reference: model with landmark vertices, in canonical space.
        mean: (v, 3) mean face in millimetres with about canonical axes, at any position.
    """
    source = reference.mean.numpy().astype(np.float64)
    marks = source[reference.landmark_verts.numpy()]
    nose = marks[30]
    face = source[np.linalg.norm(source - nose, axis=1) < 95.0]
    # The nose tip is the foremost vertex near the plane of symmetry.
    middle = np.abs(mean[:, 0] - np.median(mean[:, 0])) < 15.0
    tip = mean[middle][mean[middle, 2].argmax()]
    scale, R, T = 1.0, np.eye(3), tip - nose
    tree = cKDTree(mean)
    for _ in range(60):
        moved = scale * face @ R.T + T
        distance, nearest = tree.query(moved)
        keep = distance <= np.quantile(distance, 0.8)
        scale, R, T = similarity(face[keep], mean[nearest[keep]])
    distance, nearest = tree.query(scale * marks @ R.T + T)
    if np.median(distance) > 8.0:
        raise ValueError("its mean is not a face with +y up and +z out of the face")
    return nearest


def similarity(source: Array, target: Array) -> tuple[float, Array, Array]:
    """Returns scale, rotation and translation with least squared error `scale * R @ source + T - target`.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991.
    """
    mu_s, mu_t = source.mean(0), target.mean(0)
    s, t = source - mu_s, target - mu_t
    u, d, vt = np.linalg.svd(t.T @ s)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    R = (u * sign) @ vt
    scale = float((d * sign).sum() / (s**2).sum())
    return scale, R, mu_t - scale * R @ mu_s


# --- ICT-FaceKit --------------------------------------------------------------------------------------------------


def read_ict_array(path: Path) -> LinearFaceModel:
    """Reads ICT-FaceKit from one array file: neutral, faces, identity and expression, optionally uv and uv_faces.

    neutral (26719, 3); faces (f, 4) quads; identity (k, 26719, 3) and expression (e, 26719, 3) displacements.
    Face, head and neck are kept; teeth, eyeballs and lashes are left out.
    """
    with np.load(path) as data:
        missing = [key for key in ("neutral", "faces", "identity", "expression") if key not in data]
        if missing:
            raise ValueError(f"it has no array {missing[0]}")
        uv = (data["uv"], data["uv_faces"]) if "uv" in data and "uv_faces" in data else None
        return _ict_model(data["neutral"], data["faces"], data["identity"], data["expression"], uv, [path])


def read_ict_folder(path: Path) -> LinearFaceModel:
    """Reads ICT-FaceKit from its `FaceXModel` folder of OBJ files.

    generic_neutral_mesh.obj is the mean, identityNNN.obj are one standard deviation away from it, every other OBJ
    with the same number of vertices is an expression at full strength.
    """
    neutral_file = path / "generic_neutral_mesh.obj"
    identity_files = sorted(path.glob("identity[0-9]*.obj"))
    if not neutral_file.is_file() or not identity_files:
        raise ValueError("the files are missing")
    expression_files = sorted(set(path.glob("*.obj")) - {neutral_file, *identity_files})
    neutral = _obj_vertices(neutral_file)

    def displacements(files: list[Path]) -> Array:
        out = np.zeros((len(files), *neutral.shape), dtype=np.float32)
        for i, file in enumerate(files):
            verts = _obj_vertices(file)
            if verts.shape != neutral.shape:
                raise ValueError(f"{file.name} has {len(verts)} vertices where the mean has {len(neutral)}")
            out[i] = verts - neutral
        return out

    lines = neutral_file.read_text("utf-8").splitlines()
    corners = np.array([_obj_corners(line) for line in lines if line.startswith("f ")])
    uv = np.array([line.split()[1:3] for line in lines if line.startswith("vt ")], dtype=np.float64)
    files = [neutral_file, *identity_files, *expression_files]
    return _ict_model(
        neutral,
        corners[..., 0] - 1,
        displacements(identity_files),
        displacements(expression_files),
        (uv, corners[..., 1] - 1) if len(uv) else None,
        files,
    )


def _obj_vertices(path: Path) -> Array:
    lines = [line[2:] for line in path.read_bytes().split(b"\n") if line.startswith(b"v ")]
    return np.array(b" ".join(lines).split(), dtype=np.float64).reshape(len(lines), 3)


def _obj_corners(line: str) -> list[tuple[int, int]]:
    """Returns (vertex, texture coordinate) of four corners, counted from 1; a triangle repeats its last."""
    corners = [tuple(map(int, [*word.split("/"), "0"][:2])) for word in line.split()[1:]]
    return (corners + corners[-1:])[:4]  # type: ignore[return-value]


def _ict_model(
    neutral: Array,
    quads: Array,
    identity: Array,
    expression: Array,
    uv: tuple[Array, Array] | None,
    files: list[Path],
) -> LinearFaceModel:
    if neutral.shape != (_ICT_ALL_VERTS, 3):
        raise ValueError(f"its mean has shape {neutral.shape} where ICT-FaceKit has ({_ICT_ALL_VERTS}, 3)")
    n = _ICT_HEAD_VERTS
    head = (quads < n).all(1)
    landmark_verts = np.array(ICT_LANDMARK_VERTS)
    vertex_uv = None
    if uv is not None:
        vertex_uv = np.zeros((n, 2))
        vertex_uv[quads[head].ravel()] = uv[0][uv[1][head].ravel()]
    quads = quads[head].astype(np.int64)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return canonical_model(
        name="ict",
        mean=np.asarray(neutral[:n], dtype=np.float64),
        faces=faces[(faces != np.roll(faces, 1, axis=1)).all(1)],  # a triangle among the quads repeats a corner
        identity=np.asarray(identity[:, :n], dtype=np.float32),
        expression=np.asarray(expression[:, :n], dtype=np.float32),
        expression_bounds=(0.0, 1.0),
        landmark_verts=landmark_verts,
        jaw_verts=landmark_verts[:17],
        uv=vertex_uv,
        files=files,
    )


# --- What every reader ends with ----------------------------------------------------------------------------------


def canonical_model(
    *,
    name: str,
    mean: Array,
    faces: Array,
    identity: Array,
    expression: Array,
    expression_bounds: tuple[float, float],
    landmark_verts: Array,
    jaw_verts: Array,
    uv: Array | None,
    files: list[Path],
) -> LinearFaceModel:
    """Returns the model in canonical space and millimetres; see the head of this module.

    Args:
        name: short name for the rows.
        mean: (v, 3) mean face with about canonical axes, in any power-of-ten unit of length.
        faces: (f, 3) triangles in either winding.
        identity: (k, v, 3) displacement of one standard deviation a mode.
        expression: (e, v, 3) displacement of a unit coefficient a mode.
        expression_bounds: lowest and highest expression coefficient.
        landmark_verts: (68,) vertices, -1 where the model has none; the corners of eyes and mouth are needed.
        jaw_verts: (17,) vertices of the jaw line in a frontal view.
        uv: (v, 2) texture coordinates or None.
        files: what is hashed into `sha256`.

    Raises:
        ValueError: shapes or indices do not fit together.
    """
    n = len(mean)
    if identity.shape[1:] != (n, 3) or expression.shape[1:] != (n, 3):
        raise ValueError(f"its modes have shapes {identity.shape} and {expression.shape} where the mean has {n} rows")
    if len(faces) == 0 or faces.min() < 0 or max(faces.max(), landmark_verts.max(), jaw_verts.max()) >= n:
        raise ValueError(f"triangles or landmarks point outside of its {n} vertices")
    unit = _to_millimetres(mean)
    mean = mean * unit
    eyes, mouth = mean[landmark_verts[list(OUTER_EYE)]], mean[landmark_verts[list(MOUTH_CORNERS)]]
    origin = eyes.mean(0)
    x = (eyes[1] - eyes[0]) / np.linalg.norm(eyes[1] - eyes[0])
    down = mouth.mean(0) - origin
    down -= x * (down @ x)
    down /= np.linalg.norm(down)
    lean = np.deg2rad(MOUTH_LEAN_DEG)
    # In canonical space `down` is (0, -cos lean, sin lean); its normal in the plane of symmetry points outwards.
    outwards = np.cross(down, x)
    y = -np.cos(lean) * down + np.sin(lean) * outwards
    z = np.cross(x, y)
    axes = np.stack([x, y, z])
    mean = (mean - origin) @ axes.T
    a, b, c = (mean[faces[:, i]] for i in range(3))
    volume = (np.cross(b - a, c - a) * ((a + b + c) / 3 - mean.mean(0))).sum()
    return LinearFaceModel(
        name=name,
        mean=torch.tensor(mean, dtype=torch.float32),
        faces=torch.tensor(faces if volume > 0 else faces[:, ::-1].copy(), dtype=torch.int64),
        identity=torch.tensor(identity * unit @ axes.T, dtype=torch.float32),
        expression=torch.tensor(expression * unit @ axes.T, dtype=torch.float32),
        expression_bounds=torch.tensor([expression_bounds] * len(expression), dtype=torch.float32).reshape(-1, 2),
        landmark_verts=torch.tensor(landmark_verts, dtype=torch.int64),
        contour_verts=torch.tensor(jaw_lines(mean, jaw_verts), dtype=torch.int64),
        mirror_verts=torch.tensor(cKDTree(mean).query(mean * [-1.0, 1.0, 1.0])[1], dtype=torch.int64),
        uv=None if uv is None else torch.tensor(uv, dtype=torch.float32),
        sha256=_sha256(files),
    )


def jaw_lines(mean: Array, jaw_verts: Array) -> Array:
    """Returns for each jaw landmark the vertices over which the visible outline passes as the head turns away.

    Row i holds the landmark's own vertex, then for growing yaw the outermost vertex of the level section of the
    face through it: the far side's outline moves along that section towards the nose (landmark marching; Zhu et al.,
    "High-fidelity pose and expression normalization", CVPR 2015). Landmark 8, the chin, stays.

    Args:
        mean: (v, 3) mean face in canonical space, millimetres.
        jaw_verts: (17,) vertices of the jaw line in a frontal view.

    Returns:
        (17, 14) vertices, padded with -1.
    """
    yaw = np.deg2rad(np.linspace(0.0, _JAW_MAX_YAW_DEG, _JAW_LINE_POINTS - 1))
    outwards = np.stack([np.cos(yaw), np.sin(yaw)])
    rows = np.full((17, _JAW_LINE_POINTS), -1)
    rows[:, 0] = jaw_verts
    for i in (*range(8), *range(9, 17)):
        start = mean[jaw_verts[i]]
        x = mean[:, 0] * np.sign(start[0])
        # In front of the landmark (the ear and the back of the head lie behind), off the nose and mouth.
        section = np.flatnonzero(
            (np.abs(mean[:, 1] - start[1]) < 4.0) & (mean[:, 2] >= start[2]) & (x >= _JAW_LINE_END * abs(start[0]))
        )
        if len(section):
            reach = np.stack([x[section], mean[section, 2]], axis=1) @ outwards
            rows[i, 1:] = section[reach.argmax(0)]
    return rows


def _to_millimetres(mean: Array) -> float:
    """Returns the power of ten that brings the largest extent to 100 .. 1000 mm."""
    extent = float(np.ptp(mean, axis=0).max()) if len(mean) else 0.0
    if not (np.isfinite(extent) and extent > 0):
        raise ValueError("its mean face has no extent")
    return float(10.0 ** (2 - np.floor(np.log10(extent))))


def _scaled_modes(basis: Array, std: Array) -> Array:
    """Returns (k, v, 3) displacements of one standard deviation from basis columns of any length."""
    basis = basis.astype(np.float64)
    if basis.ndim != 2 or basis.shape[1] != len(std):
        raise ValueError(f"its basis has shape {basis.shape} for {len(std)} deviations")
    modes = basis / np.linalg.norm(basis, axis=0) * std
    return modes.T.reshape(len(std), -1, 3).astype(np.float32)


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


_READERS: dict[str, tuple[Callable[[Path], LinearFaceModel], str]] = {
    ".bin": (read_sfm, "a Surrey Face Model shape file (cereal binary)"),
    ".mat": (read_bfm2009, "a Basel Face Model 2009 file"),
    ".h5": (read_bfm2017, "a Basel Face Model 2017 or 2019 file (statismo HDF5)"),
    ".npz": (read_ict_array, "an ICT-FaceKit array file"),
}
