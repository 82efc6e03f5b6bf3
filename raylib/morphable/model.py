"""Linear face models: a mean face plus identity and expression modes, in canonical millimetres."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from jaxtyping import Bool, Float, Int
from safetensors.torch import load
from torch import Tensor


@dataclass(frozen=True)
class LinearFaceModel:
    """A linear (morphable) face model in canonical face space (see `camera`), millimetres.

    `verts = mean + identity @ c + expression @ e`, with c ~ N(0, 1) in each mode and e within `expression_bounds`.

    Attributes:
        name: short name for the row's columns, for example "prior" or "sfm".
        mean: mean face.
        faces: triangles, counter-clockwise seen from outside.
        identity: displacement of one standard deviation a mode.
        expression: displacement of a unit coefficient a mode; may have no modes.
        expression_bounds: lowest and highest coefficient of each expression mode.
        landmark_verts: vertex of each of the 68 landmarks (Multi-PIE / iBUG order), -1 where the model has none.
        contour_verts: candidates for the jaw line, one padded row each for landmarks 0..16 where the visible
            contour slides over the mesh as the head turns; padded with -1; may be empty.
        mirror_verts: for each vertex the one across the plane of symmetry, or None where the model has none.
        regions: label of each vertex (see `REGIONS`), or None.
        uv: texture coordinates of each vertex, (0, 0) at the bottom left, or None.
        sha256: hash of the file the model came from, for the row.
    """

    name: str
    mean: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    identity: Float[Tensor, "k v 3"]
    expression: Float[Tensor, "e v 3"]
    expression_bounds: Float[Tensor, "e 2"]
    landmark_verts: Int[Tensor, " 68"]
    contour_verts: Int[Tensor, "c n"]
    mirror_verts: Int[Tensor, " v"] | None = None
    regions: Int[Tensor, " v"] | None = None
    uv: Float[Tensor, "v 2"] | None = None
    sha256: str = ""

    def verts(
        self, identity: Float[Tensor, "b k"], expression: Float[Tensor, "b e"] | None = None
    ) -> Float[Tensor, "b v 3"]:
        """Returns the faces with these coefficients, millimetres; fewer coefficients than modes leave the rest 0."""
        flat = identity @ self.identity[: identity.shape[1]].flatten(1)
        if expression is not None and self.expression.shape[0]:
            flat = flat + expression @ self.expression[: expression.shape[1]].flatten(1)
        return self.mean + flat.reshape(identity.shape[0], *self.mean.shape)

    @property
    def has_landmark(self) -> Bool[Tensor, " 68"]:
        """Tells which of the 68 landmarks the model defines."""
        return self.landmark_verts >= 0


REGIONS = ("skin", "brow", "eye", "nose", "upper_lip", "lower_lip", "inner_mouth")
"""Names of the values of `LinearFaceModel.regions`."""


@lru_cache(maxsize=1)
def load_prior() -> LinearFaceModel:
    """Returns the shipped face prior: the 2113-vertex hemisphere wrapped onto ICT-FaceKit's average face.

    Its identity modes are principal components, one standard deviation each, largest first; its expressions are
    ICT-FaceKit's blendshapes between 0 and 1. `weights/face_prior.md` says how it was made and how good it is.
    """
    return _prior(files("raylib").joinpath("weights", "face_prior.safetensors").read_bytes())


def read_prior(path: Path) -> LinearFaceModel:
    """Returns the prior in a file that `jobs/build_prior.py` wrote."""
    return _prior(path.read_bytes())


def _prior(raw: bytes) -> LinearFaceModel:
    t = load(raw)
    long = {k: v.long() for k, v in t.items() if not v.is_floating_point()}
    return LinearFaceModel(
        name="prior",
        mean=t["mean"],
        faces=long["faces"],
        identity=t["identity"].float(),
        expression=t["expression"].float(),
        expression_bounds=t["expression_bounds"],
        landmark_verts=long["landmark_verts"],
        contour_verts=long["contour_verts"],
        mirror_verts=long["mirror_verts"],
        regions=long["regions"],
        uv=t["uv"],
        sha256=hashlib.sha256(raw).hexdigest(),
    )
