"""Reconstructions to be judged: the output of `jobs/reconstruct.py`, or a folder of landmarked meshes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from raylib.errors import ConfigError
from raylib.evaluation.faces import Prediction, TrueFace
from raylib.evaluation.scans import landmark_files, read_landmarked
from raylib.geometry.camera import Camera
from raylib.io.storage import Location
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.morphable.readers import load_model
from raylib.reconstruction.finished import parts
from raylib.runtime.progress import watched

Array = NDArray[Any]

_COLUMNS = (
    *("image_uri", "image_sha256", "face_index", "status", "method", "morphable_model", "verts_mm", "R", "T_mm"),
    *("focal_px", "principal_px", "landmarks_68", "albedo", "vertex_colors", "light_sh"),
)

_ON_EDGE = 1e-9  # barycentric; a ray through a vertex must not slip between its triangles


class ResultsFolder:
    """A method by what it left in a folder.

    Args:
        name: of the method.
        uri: output of `jobs/reconstruct.py`, local or remote, or a local folder of meshes with .landmarks files.
        storage_options: arguments of a remote output's fsspec filesystem.

    Raises:
        ConfigError: the folder holds neither, or a file of it cannot be read.
    """

    def __init__(self, name: str, uri: str, storage_options: Mapping[str, Any] | None = None):
        self.name = name
        output = Location(uri, storage_options or {})
        self._by_hash: dict[str, Prediction] = {}
        self._by_name: dict[str, Prediction | None] = {}
        found = _from_rows(output) if output.list_files("faces", ".parquet") else _from_meshes(Path(output.path))
        for digest, names, prediction in found:
            if digest:
                self._by_hash.setdefault(digest, prediction)
            for key in names:
                # Two faces of one name, say IMG_1.jpg of two folders, are not told apart by it.
                self._by_name[key] = None if key in self._by_name else prediction
        if not self._by_name:
            raise ConfigError(
                f"results {uri!r} hold no reconstructed face, expected faces/*.parquet of "
                "jobs/reconstruct.py with status ok, or OBJ and PLY files with .landmarks files"
            )

    def __len__(self) -> int:
        return len(self._by_hash) or len(self._by_name)

    def __call__(self, face: TrueFace) -> Prediction | None:
        """Returns the reconstruction that one of the face's keys names."""
        by_hash = (self._by_hash.get(key) for key in face.keys)
        by_name = (self._by_name.get(key) for key in face.keys)
        return next((prediction for prediction in (*by_hash, *by_name) if prediction is not None), None)


def _from_meshes(folder: Path) -> Iterator[tuple[str, set[str], Prediction]]:
    """Yields meshes without a hash, but with all their names."""
    if not folder.is_dir():
        raise ConfigError(f"results {str(folder)!r} do not exist, expected a folder")
    prior_faces = load_prior().faces.numpy()
    for path in landmark_files(folder):
        mesh = read_landmarked(path, folder)
        if not len(mesh.faces):
            raise ConfigError(f"{str(path)!r} belongs to a cloud of points, expected a mesh with triangles")
        same = np.array_equal(mesh.faces, prior_faces)
        keys = {mesh.name, Path(mesh.name).name, *(image.stem for image in mesh.images)}
        yield "", keys, Prediction(mesh.verts, mesh.faces, mesh.landmarks, same)


def _from_rows(output: Location) -> Iterator[tuple[str, set[str], Prediction]]:
    """Yields hash and name of each image with its largest face."""
    models: dict[str, LinearFaceModel] = {}
    try:
        tables = [table for _, table in parts(output, list(_COLUMNS))]
    except (pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(f"results {output.uri!r} hold no rows of jobs/reconstruct.py: {error}") from error
    for table in watched(tables, f"parts of {output.uri} read"):
        for row in table.to_pylist():
            if row["status"] != "ok" or row["face_index"] != 0 or row["verts_mm"] is None:
                continue
            name = row["morphable_model"]
            if name not in models:
                models[name] = _model(output, name)
            stem = PurePosixPath(row["image_uri"]).stem
            yield row["image_sha256"], {stem}, row_prediction(row, models[name])


def _model(output: Location, name: str) -> LinearFaceModel:
    """Returns the model whose topology a run's meshes have."""
    if name == "prior":
        return load_prior()
    if name == "meshnet_paper":
        # The paper's hemisphere: the prior's triangles, but no vertex belongs to a place on the face.
        prior = load_prior()
        return replace(prior, name=name, landmark_verts=torch.full_like(prior.landmark_verts, -1))
    record = output.join("run.json")
    try:
        spec = json.loads(output.read_bytes(record))["config"]["morphable_model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{record!r} does not tell where the model {name!r} of its meshes is, expected the record that "
            "jobs/reconstruct.py writes last"
        ) from error
    return load_model(spec)


def row_prediction(row: dict[str, Any], model: LinearFaceModel) -> Prediction:
    """Returns the face of a row of `jobs/reconstruct.py`.

    A mesh whose topology knows no landmarks gets those points of its surface that lie under the detected ones.

    Args:
        row: values by column; lists are row-major.
        model: gives triangles and landmarks.
    """
    verts = _array(row["verts_mm"], 3)
    assert verts is not None
    if len(verts) != len(model.mean):
        raise ConfigError(f"a row has {len(verts)} vertices where its model {model.name!r} has {len(model.mean)}")
    faces, camera = model.faces.numpy(), _camera(row)
    landmarks = model_landmarks(model, verts)
    if not bool(model.has_landmark.any()) and camera is not None and row["landmarks_68"] is not None:
        landmarks = points_under(np.reshape(row["landmarks_68"], (68, 2)), verts, faces, camera)
    return Prediction(
        verts=verts,
        faces=faces,
        landmarks=landmarks,
        in_prior_topology=model.name == "prior",
        camera=camera,
        albedo=_array(row["albedo"], 3),
        colors=_array(row["vertex_colors"], 3),
        light_sh=_array(row["light_sh"], 3),
    )


def points_under(
    pixels: Float[np.ndarray, "n 2"], verts: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], camera: Camera
) -> Float[np.ndarray, "n 3"]:
    """Returns the points of a mesh that a camera shows at places of its picture, NaN where it shows none.

    Args:
        pixels: places in the picture.
        verts: vertices.
        faces: triangles.
        camera: a batch of one.
    """
    seen = camera.to_camera(torch.from_numpy(verts)[None])[0].numpy()
    a, b, c = (seen[faces[:, k]] for k in range(3))
    focal, principal = float(camera.focal_px[0]), camera.principal_px[0].numpy()
    out = np.full((len(pixels), 3), np.nan)
    for i, pixel in enumerate(pixels):
        ray = np.append((pixel - principal) / focal, 1.0)
        # The ray t * ray meets a + u (b - a) + v (c - a); Moeller and Trumbore 1997.
        p = np.cross(ray, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / ((b - a) * p).sum(1)
            u = (-a * p).sum(1) * inverse
            q = np.cross(-a, b - a)
            v, depth = (q @ ray) * inverse, ((c - a) * q).sum(1) * inverse
            hit = np.flatnonzero((np.minimum(u, v) >= -_ON_EDGE) & (u + v <= 1 + _ON_EDGE) & (depth > 0))
        if len(hit):
            f = hit[depth[hit].argmin()]
            corners = verts[faces[f]].astype(np.float64)
            out[i] = (1 - u[f] - v[f]) * corners[0] + u[f] * corners[1] + v[f] * corners[2]
    return out


def model_landmarks(model: LinearFaceModel, verts: Array) -> Array:
    """Returns the 68 landmarks of a face of the model, NaN where it has none."""
    index = model.landmark_verts.numpy()
    return np.where(index[:, None] >= 0, np.asarray(verts, dtype=np.float64)[index], np.nan)


def _array(values: list[float] | None, columns: int) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1, columns)


def _camera(row: dict[str, Any]) -> Camera | None:
    if row["R"] is None or row["T_mm"] is None:
        return None

    def tensor(values: Any, *shape: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    return Camera(
        tensor(row["R"], 1, 3, 3),
        tensor(row["T_mm"], 1, 3),
        tensor(row["focal_px"], 1),
        tensor(row["principal_px"], 1, 2),
    )
