"""Known faces, from Parquet shards of `jobs/synthesize.py` or from files of scans; one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from raylib.errors import ConfigError, RaylibError
from raylib.evaluation.faces import TrueAppearance, TrueFace, TruePhoto
from raylib.evaluation.regions import anchors, surface_samples
from raylib.evaluation.scans import LandmarkedMesh, landmark_files, read_landmarked
from raylib.images import decode
from raylib.metrics import surface_normals, unit
from raylib.morphable import load_prior

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


def known_faces(folder: Path, scan_points: int) -> Iterator[TrueFace]:
    """Returns an iterator over the faces of a folder.

    Args:
        folder: Parquet shards of `jobs/synthesize.py`, or scans with .landmarks files.
        scan_points: points of a synthetic face's scan.

    Raises:
        ConfigError: the folder holds neither.
    """
    if folder.is_dir() and landmark_files(folder):
        return scan_set(folder)
    raise ConfigError(
        f"truth {str(folder)!r} holds no known faces, expected Parquet files of jobs/synthesize.py, or OBJ and PLY "
        "files with .landmarks files"
    )
