"""Known faces, from Parquet shards of `jobs/synthesize.py` or from files of scans; one at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image

from raylib.config.evaluate import FacesToJudge
from raylib.errors import ConfigError, RaylibError
from raylib.evaluation.faces import TrueAppearance, TrueFace, TruePhoto
from raylib.evaluation.scans import LandmarkedMesh, landmark_files, read_landmarked
from raylib.evaluation.shape.regions import anchors, surface_samples
from raylib.geometry.camera import Camera
from raylib.geometry.closest import surface_normals, unit
from raylib.io.images import decode
from raylib.morphable.model import load_prior
from raylib.runtime.progress import watched
from raylib.synthesis.parquet import SyntheticDataset

_MAX_PIXELS = 100_000_000


def prior_truth(
    name: str,
    verts: Float[np.ndarray, "2113 3"],
    scan_points: int,
    photo: TruePhoto | None = None,
    keys: tuple[str, ...] = (),
    appearance: TrueAppearance | None = None,
) -> TrueFace:
    """Returns a known face in the shipped prior's topology, its scan spread evenly over it.

    Args:
        name: unique in its set.
        verts: vertices, millimetres.
        scan_points: points of the scan.
        photo: a picture of it.
        keys: further names of its picture.
        appearance: albedo and light in the picture.
    """
    prior = load_prior()
    faces = prior.faces.numpy()
    verts = np.asarray(verts, dtype=np.float64)
    face, bary = surface_samples(scan_points)
    corners = faces[face]
    normals = unit(np.einsum("nk,nkd->nd", bary, surface_normals(verts, faces)[corners]))
    return TrueFace(
        name=name,
        keys=(name, *keys),
        scan=np.einsum("nk,nkd->nd", bary, verts[corners]),
        scan_normals=normals,
        anchor=corners[np.arange(len(face)), bary.argmax(1)],
        landmarks=verts[prior.landmark_verts.numpy()],
        verts=verts,
        faces=faces,
        in_prior_topology=True,
        photo=photo,
        appearance=appearance,
    )


def scan_truth(mesh: LandmarkedMesh) -> list[TrueFace]:
    """Returns a scan as one known face for each of its photographs, or one without.

    Raises:
        ConfigError: a photograph cannot be read, or the scan has no points of a face.
    """
    normals = surface_normals(mesh.verts, mesh.faces) if len(mesh.faces) else None
    try:
        anchor = anchors(mesh.verts, mesh.landmarks)
    except ValueError as error:
        raise ConfigError(f"scan {mesh.name!r} has no face: {error}") from error
    alone = TrueFace(
        name=mesh.name,
        keys=(mesh.name, Path(mesh.name).name),
        scan=mesh.verts,
        scan_normals=normals,
        anchor=anchor,
        landmarks=mesh.landmarks,
        verts=mesh.verts,
        faces=mesh.faces,
        in_prior_topology=False,
    )
    if not mesh.images:
        return [alone]
    faces = []
    for image in mesh.images:
        try:
            raw = image.read_bytes()
            picture = decode(raw, _MAX_PIXELS).rgb
        except (OSError, RaylibError) as error:
            raise ConfigError(f"image {str(image)!r} of scan {mesh.name!r} cannot be read: {error}") from error
        keys = (hashlib.sha256(raw).hexdigest(), image.stem)
        own = f"{mesh.name}/{image.stem}" if len(mesh.images) > 1 else mesh.name
        shared = () if len(mesh.images) > 1 else alone.keys
        faces.append(replace(alone, name=own, keys=(own, *keys, *shared), photo=TruePhoto(picture)))
    return faces


def scan_set(folder: Path) -> Iterator[TrueFace]:
    """Yields the scans below a folder."""
    for path in landmark_files(folder):
        yield from scan_truth(read_landmarked(path, folder))


_COLUMNS = (
    *("seed", "person", "image", "labels", "landmarks", "landmark_visible", "R", "T", "focal_px", "principal_px"),
    *("verts_mm", "albedo", "light_sh", "lamp_direction", "lamp_color"),
)


def synthetic_set(uri: str, scan_points: int, storage_options: Mapping[str, Any] | None = None) -> Iterator[TrueFace]:
    """Yields the faces of `jobs/synthesize.py`.

    Raises:
        ConfigError: a file holds other rows.
    """
    dataset = SyntheticDataset(uri, storage_options)
    try:
        for table in dataset.tables(_COLUMNS):
            for row in table.to_pylist():
                yield _synthetic_face(row, scan_points)
    except (pa.ArrowInvalid, KeyError) as error:
        raise ConfigError(f"truth {uri!r} holds no rows of jobs/synthesize.py: {error}") from error


def _synthetic_face(row: dict[str, Any], scan_points: int) -> TrueFace:
    def array(name: str, *shape: int) -> np.ndarray:
        return np.asarray(row[name], dtype=np.float64).reshape(shape)

    verts, R = array("verts_mm", -1, 3), array("R", 1, 3, 3)
    shapes = {"R": (1, 3, 3), "T": (1, 3), "focal_px": (1,), "principal_px": (1, 2)}
    camera = Camera(*(torch.from_numpy(array(name, *shape)) for name, shape in shapes.items()))
    picture = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))
    visible = np.asarray(row["landmark_visible"], dtype=bool)
    # One person in one pose and expression: what differs between such pictures is the light.
    pose = hashlib.sha256(verts.tobytes() + R.tobytes()).hexdigest()[:12]
    appearance = TrueAppearance(
        array("albedo", -1, 3),
        array("light_sh", 9, 3),
        array("lamp_direction", 3),
        array("lamp_color", 3),
        np.asarray(Image.open(io.BytesIO(row["labels"]))),
        person=f"{row['person']}-{pose}",
    )
    name = str(row["seed"])
    keys = (hashlib.sha256(row["image"]).hexdigest(),)
    photo = TruePhoto(picture, camera, array("landmarks", 68, 2), visible)
    return prior_truth(name, verts, scan_points, photo, keys, appearance)


def write_pictures(uri: str, out: Path, storage_options: Mapping[str, Any] | None = None) -> int:
    """Writes the pictures of `jobs/synthesize.py` as files and returns their number.

    The bytes are those of the rows, so that a reconstruction of a file is known by its hash.
    """
    count = 0
    dataset = SyntheticDataset(uri, storage_options)
    out.mkdir(parents=True, exist_ok=True)
    tables = dataset.tables(["seed", "image"])
    for table in watched(tables, "pictures written", len(dataset), size=lambda one: one.num_rows):
        for seed, raw in zip(table["seed"].to_pylist(), table["image"].to_pylist(), strict=True):
            suffix = "jpg" if raw[:2] == b"\xff\xd8" else "png"
            (out / f"{seed}.{suffix}").write_bytes(raw)
            count += 1
    return count


def known_faces(uri: str, scan_points: int, storage_options: Mapping[str, Any] | None = None) -> Iterator[TrueFace]:
    """Returns an iterator over the faces of a folder.

    Args:
        uri: output of `jobs/synthesize.py`, local or remote, or a local folder of scans with .landmarks files.
        scan_points: points of a synthetic face's scan.
        storage_options: arguments of a remote truth's fsspec filesystem.

    Raises:
        ConfigError: the folder holds neither.
    """
    folder = Path(uri).expanduser()
    if are_scans(uri):
        return scan_set(folder)
    return synthetic_set(str(folder) if "://" not in uri else uri, scan_points, storage_options)


def are_scans(uri: str) -> bool:
    """Tells whether a folder of known faces holds scans; otherwise it is the output of `jobs/synthesize.py`.

    Raises:
        ConfigError: the folder holds neither.
    """
    folder = Path(uri).expanduser()
    if "://" not in uri and landmark_files(folder):
        return True
    if "://" in uri or any(folder.glob("faces/*.parquet")):
        return False
    raise ConfigError(
        f"truth {uri!r} holds no known faces, expected Parquet files of jobs/synthesize.py, or OBJ and PLY "
        "files with .landmarks files"
    )


def watched_faces(config: FacesToJudge, scan_points: int, what: str) -> Iterator[TrueFace]:
    """Yields the faces that are to be judged, and shows how far that is.

    Args:
        config: tells the truth and how many of its faces count.
        scan_points: as `known_faces` wants it.
        what: what happens to the faces.

    Raises:
        ConfigError: the folder holds no known faces.
    """
    faces = islice(known_faces(config.truth, scan_points, config.storage_options), config.max_faces or None)
    # A scan may have several photographs, so that their number is known only in the end.
    total = None if are_scans(config.truth) else len(SyntheticDataset(config.truth, config.storage_options))
    return watched(faces, what, total and min(total, config.max_faces or total))
