"""Meshes as the page's script reads them: small, and what all faces share only once."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from raylib.lighting.color import linear_to_srgb
from raylib.morphable.model import LinearFaceModel
from raylib.report.page import base64_text
from raylib.texture.texturer import TextureLayout

STEP_MM = 0.02
"""Vertices are rounded to this grid: a tenth of what a printer resolves, far below any error of the shape."""
SIGMA_STEP_MM = 0.01
_JAW = 17


@dataclass(frozen=True)
class SharedTopology:
    """What all faces of a run have in common.

    Attributes:
        name: of the model.
        base_mm: positions that faces are stored as differences to.
        faces: triangles.
        uv: texture coordinates, (0, 0) at the bottom left.
        landmark_verts: candidates for each of the 68 landmarks, padded with -1: one each, and along the jaw several
            over which the visible contour slides; None where the model is not at hand.
    """

    name: str
    base_mm: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    landmark_verts: Int[np.ndarray, "68 n"] | None

    @staticmethod
    def of_model(model: LinearFaceModel) -> SharedTopology:
        """Returns the topology of a model."""
        uv = None if model.uv is None else model.uv.numpy()
        mirror = None if model.mirror_verts is None else model.mirror_verts.numpy()
        topology = TextureLayout.of(model.mean.numpy(), model.faces.numpy(), uv, mirror)
        landmarks = model.landmark_verts.numpy()
        candidates = np.full((68, max(1, model.contour_verts.shape[-1])), -1)
        candidates[:, 0] = landmarks
        if len(model.contour_verts):
            candidates[:_JAW, : model.contour_verts.shape[1]] = model.contour_verts[:_JAW].numpy()
        return SharedTopology(model.name, model.mean.numpy(), topology.faces, topology.uv, candidates)

    @staticmethod
    def of_glb(glb: bytes, name: str) -> SharedTopology:
        """Returns the topology of a GLB of this project, for runs whose model is not at hand.

        Raises:
            ValueError: it is no GLB with texture coordinates.
        """
        json_length = struct.unpack_from("<I", glb, 12)[0]
        document = json.loads(glb[20 : 20 + json_length])
        binary = glb[28 + json_length :]
        primitive = document["meshes"][0]["primitives"][0]

        def array(accessor: int) -> np.ndarray:
            entry = document["accessors"][accessor]
            kind = {5123: np.uint16, 5125: np.uint32, 5126: np.float32}[entry["componentType"]]
            width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[entry["type"]]
            start = document["bufferViews"][entry["bufferView"]].get("byteOffset", 0)
            return np.frombuffer(binary, kind, entry["count"] * width, start).reshape(-1, width)

        try:
            uv = array(primitive["attributes"]["TEXCOORD_0"]) * [1, -1] + [0, 1]
            verts_mm = array(primitive["attributes"]["POSITION"]) * 1000.0
            return SharedTopology(name, verts_mm, array(primitive["indices"]).reshape(-1, 3), uv, None)
        except (KeyError, IndexError) as error:
            raise ValueError(f"GLB lacks {error}") from error

    def packed(self) -> dict[str, Any]:
        """Returns the topology for the page."""
        return {
            "name": self.name,
            "verts": len(self.base_mm),
            "base": base64_text(self.base_mm.astype("<f4").tobytes()),
            "faces": base64_text(self.faces.astype("<u4").tobytes()),
            "uv": base64_text(self.uv.astype("<f4").tobytes()),
        }

    def landmark_fit(
        self, verts_px: Float[np.ndarray, "v 2"], landmarks: Float[np.ndarray, "68 2"]
    ) -> tuple[Int[np.ndarray, " 68"], Float[np.ndarray, " 68"]]:
        """Returns the vertex that stands for each landmark, -1 for none, and its distance in pixels.

        Along the jaw it is the candidate nearest to the detected landmark.
        """
        if self.landmark_verts is None:
            return np.full(68, -1), np.full(68, np.nan)
        candidates = self.landmark_verts
        distance = np.linalg.norm(verts_px[candidates] - landmarks[:, None], axis=-1)
        distance[candidates < 0] = np.inf
        best = distance.argmin(axis=1)
        rows = np.arange(68)
        nearest = distance[rows, best]
        return candidates[rows, best], np.where(np.isfinite(nearest), nearest, np.nan)


def pack_mesh(
    verts_mm: Float[np.ndarray, "v 3"], base_mm: Float[np.ndarray, "v 3"], **per_vertex: np.ndarray | None
) -> dict[str, Any]:
    """Returns a face's arrays as one compressed text, and their names in order.

    Args:
        verts_mm: vertices.
        base_mm: positions they are stored as differences to.
        per_vertex: further arrays: visibility (v) in 0..1, source (v), albedo (v,3) linear, colors (v,3) sRGB,
            sigma (v) mm.
    """
    steps = np.round((verts_mm - base_mm) / STEP_MM)
    parts = {"verts": _smooth(np.clip(steps, -32767, 32767).astype(np.int16))}
    for name, values in per_vertex.items():
        if values is None:
            continue
        if name == "sigma":
            parts[name] = _smooth(np.clip(np.round(values / SIGMA_STEP_MM), 0, 32767).astype(np.int16)[:, None])
        elif name == "source":
            parts[name] = values.astype(np.uint8).tobytes()
        else:
            share = linear_to_srgb(torch.from_numpy(values)).numpy() if name == "albedo" else values
            columns = np.atleast_2d(np.clip(share, 0, 1).T)
            parts[name] = _differences(np.round(columns * 255).astype(np.uint8)).tobytes()
    return {"arrays": list(parts), "data": base64_text(zlib.compress(b"".join(parts.values()), 6))}


def _smooth(values: np.ndarray) -> bytes:
    """Returns 16-bit columns as differences along the vertices, all low bytes before all high ones.

    Neighbours in the list are mostly neighbours on the surface, so that differences are small and compress well.
    """
    steps = np.ascontiguousarray(_differences(values.T).astype("<i2"))
    return steps.view(np.uint8).reshape(-1, 2).T.tobytes()


def _differences(columns: np.ndarray) -> UInt8[np.ndarray, "c v"] | np.ndarray:
    """Returns each column's first entry and then the steps from entry to entry, wrapping around as integers do."""
    return np.diff(columns, axis=1, prepend=np.zeros((len(columns), 1), columns.dtype))
