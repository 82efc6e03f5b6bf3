"""The whole head: the prior's face, and around it ears, skull, neck and shoulders that follow its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import load as load_arrays
from scipy.spatial import cKDTree

from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.morphable.readers import load_model
from raylib.morphable.registration.transfer import identity_map, nearest_on_mesh
from raylib.synthesis.kernels import mesh_normals

_NEAR_FACE_MM, _UNDER_FACE_MM = 12.0, 1.6  # the strip under the face's edge lies 0.6 and 1.2 mm below it
# Rings of vertices below the bust: the hem's positions scaled and moved.
_SHOULDERS = (
    (np.array([1.32, 1.0, 1.05], np.float32), np.array([0, -26, 0], np.float32)),
    (np.array([1.62, 1.0, 1.10], np.float32), np.array([0, -70, 0], np.float32)),
    (np.array([1.75, 1.0, 1.15], np.float32), np.array([0, -330, 0], np.float32)),
)


def _mixed(weights: Float[np.ndarray, " k"], modes: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    """Returns weights @ modes in an order of addition that does not depend on BLAS and its number of threads."""
    return np.asarray(np.einsum("k,kn->n", weights, modes, optimize=False))


@dataclass(frozen=True)
class Head:
    """The mesh of the head; the first vertices and triangles are the prior's.

    Attributes:
        prior: the face.
        mean: vertices of the mean head, canonical space, millimetres.
        faces: triangles.
        tucked: vertices of the rest of the head that lie under the face's edge.
        tucked_face: three face vertices around each of them.
        tucked_bary: and their weights.
        hem: vertices on the lower edge of the ICT bust, from which shoulders go on.
        rim: vertices on the face's edge.
    """

    prior: LinearFaceModel
    mean: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    _identity: Float[np.ndarray, "k n"]
    _expression: Float[np.ndarray, "e n"]
    _rest_identity: Float[np.ndarray, "c m"]
    _rest_identity_mix: Float[np.ndarray, "k c"]
    _rest_expression: Float[np.ndarray, "d m"]
    _rest_expression_mix: Float[np.ndarray, "e d"]
    hem: Int[np.ndarray, " h"]
    tucked: Int[np.ndarray, " t"]
    tucked_face: Int[np.ndarray, "t 3"]
    tucked_bary: Float[np.ndarray, "t 3"]
    rim: Int[np.ndarray, " r"]

    @property
    def n_face_verts(self) -> int:
        """Number of the prior's vertices."""
        return int(self.prior.mean.shape[0])

    @property
    def n_face_faces(self) -> int:
        """Number of the prior's triangles."""
        return int(self.prior.faces.shape[0])

    def verts(
        self, identity: Float[np.ndarray, " k"], expression: Float[np.ndarray, " e"]
    ) -> Float[np.ndarray, "v 3"]:
        """Returns the head with these coefficients of the prior, millimetres."""
        face = _mixed(identity, self._identity) + _mixed(expression, self._expression)
        rest = _mixed(_mixed(identity, self._rest_identity_mix), self._rest_identity)
        rest = rest + _mixed(_mixed(expression, self._rest_expression_mix), self._rest_expression)
        moved = np.concatenate([face, rest]).reshape(-1, 3).astype(np.float32)
        head = self.mean[: len(moved)] + moved
        return np.concatenate([head, *(head[self.hem] * scale + shift for scale, shift in _SHOULDERS)])

    def normals(self, verts: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
        """Returns unit vertex normals, the face's as if it were alone, the same on both sides of its edge."""
        normals = mesh_normals(verts, self.faces)
        self.carry_under(normals)
        normals[self.tucked] /= np.linalg.norm(normals[self.tucked], axis=1, keepdims=True)
        return normals

    def carry_under(self, values: Float[np.ndarray, "v c"]) -> None:
        """Gives the vertices under the face's edge the values of the face above them."""
        values[self.tucked] = np.einsum("tk,tkc->tc", self.tucked_bary, values[self.tucked_face])


@lru_cache(maxsize=1)
def load_head() -> Head:
    """Returns the shipped head; `weights/head.md` says how it was made."""
    prior = load_prior()
    rest = load_arrays(files("raylib").joinpath("weights", "head.safetensors").read_bytes())
    n = prior.mean.shape[0]
    face_mean = prior.mean.numpy()
    face_faces = prior.faces.numpy()
    rest_faces = rest["faces"].astype(np.int64) + n
    mean = np.concatenate([face_mean, rest["mean"]])
    distance, _ = cKDTree(face_mean[face_faces].mean(1)).query(rest["mean"])
    near = np.flatnonzero(distance < _NEAR_FACE_MM)
    tri, bary, gap = nearest_on_mesh(rest["mean"][near].astype(np.float64), face_mean.astype(np.float64), face_faces)
    keep = gap < _UNDER_FACE_MM
    loop = _loop(_boundary_sides(rest_faces), mean)
    sheets = [_sheet(loop, np.arange(len(loop)) + len(mean))]
    ring = np.arange(len(loop)) + len(mean)
    sheets += [_sheet(ring + (k - 1) * len(loop), ring + k * len(loop)) for k in range(1, len(_SHOULDERS))]
    whole = np.concatenate([mean, *(mean[loop] * scale + shift for scale, shift in _SHOULDERS)])
    rim = np.flatnonzero(np.bincount(_boundary_sides(face_faces).ravel(), minlength=n) > 0)
    return Head(
        prior=prior,
        mean=whole,
        faces=np.concatenate([face_faces, rest_faces, *sheets]),
        hem=loop,
        _identity=prior.identity.flatten(1).numpy(),
        _expression=prior.expression.flatten(1).numpy(),
        _rest_identity=rest["identity"].reshape(len(rest["identity"]), -1).astype(np.float32),
        _rest_identity_mix=rest["identity_mix"],
        _rest_expression=rest["expression"].reshape(len(rest["expression"]), -1).astype(np.float32),
        _rest_expression_mix=rest["expression_mix"],
        tucked=near[keep] + n,
        tucked_face=face_faces[tri[keep]],
        tucked_bary=bary[keep].astype(np.float32),
        rim=rim,
    )


@dataclass(frozen=True)
class Source:
    """Where identities come from: a model's coefficients, and what they are in terms of the prior.

    Attributes:
        name: of the model.
        count: number of its identity coefficients.
        matrix: to the prior's coefficients, or None where they are the prior's own.
        offset: the prior's coefficients of the model's mean face.
        sha256: hash of the model's file.
    """

    name: str
    count: int
    matrix: Float[np.ndarray, "k p"] | None
    offset: Float[np.ndarray, " p"] | None
    sha256: str

    def to_prior(self, identity: Float[np.ndarray, " k"]) -> Float[np.ndarray, " p"]:
        """Returns the prior's coefficients of an identity."""
        if self.matrix is None or self.offset is None:
            return identity
        return (self.offset + _mixed(identity, self.matrix)).astype(np.float32)


def load_source(spec: str | Path) -> Source:
    """Returns where identities come from.

    Args:
        spec: `prior`, or a model file as `raylib.morphable.readers.load_model` reads it.

    Raises:
        ConfigError: the file is missing or is no face model.
    """
    model = load_model(str(spec))
    if model.name == "prior":
        return Source(model.name, len(model.identity), None, None, model.sha256)
    to_prior = identity_map(
        load_prior(), model.mean.double().numpy(), model.faces.numpy(), model.identity.double().numpy()
    )
    matrix, offset = to_prior.matrix.astype(np.float32), to_prior.offset.astype(np.float32)
    return Source(model.name, len(model.identity), matrix, offset, model.sha256)


def _boundary_sides(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "n 2"]:
    """Returns the sides that only one triangle has, in its direction."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, count = np.unique(np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True)
    return np.asarray(sides[index[count == 1]])


def _loop(sides: Int[np.ndarray, "n 2"], mean: Float[np.ndarray, "v 3"]) -> Int[np.ndarray, " h"]:
    """Returns the vertices of the lowest boundary loop in order."""
    after = dict(sides.tolist())
    loop = [int(sides[mean[sides[:, 0], 1].argmin(), 0])]
    while after[loop[-1]] != loop[0]:
        loop.append(after[loop[-1]])
    return np.array(loop)


def _sheet(upper: Int[np.ndarray, " h"], lower: Int[np.ndarray, " h"]) -> Int[np.ndarray, "f 3"]:
    """Returns triangles between two loops; `upper` runs as the boundary of what is above it does."""
    a, b, c, d = upper, np.roll(upper, -1), lower, np.roll(lower, -1)
    return np.concatenate([np.stack([b, a, c], 1), np.stack([b, c, d], 1)])
