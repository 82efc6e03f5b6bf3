"""Meshes as files: OBJ + MTL in millimetres, GLB in metres; the same input gives the same bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from raylib.lighting.color import srgb_to_linear

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125  # glTF component types
_ARRAY, _ELEMENT = 34962, 34963  # glTF buffer targets


class MeshEncoder:
    """Encodes faces of one topology; keeps what depends on the topology alone.

    Args:
        faces: triangles, counter-clockwise seen from outside.
        uv: texture coordinates of the vertices, (0, 0) at the bottom left.
    """

    def __init__(self, faces: Int[np.ndarray, "f 3"], uv: Float[np.ndarray, "v 2"]):
        self.faces, self.uv = faces, uv
        self._obj_uv = ("vt %.6f %.6f\n" * len(uv)) % tuple(uv.ravel().tolist())
        corners = np.repeat(faces + 1, 2, axis=1).ravel().tolist()
        self._obj_faces = "s 1\n" + ("f %d/%d %d/%d %d/%d\n" * len(faces)) % tuple(corners)

    def obj(
        self, verts_mm: Float[np.ndarray, "v 3"], vertex_colors: Float[np.ndarray, "v 3"], mtl_name: str
    ) -> bytes:
        """Returns an OBJ in millimetres, smooth, with texture coordinates and vertex colours (x y z r g b).

        Args:
            verts_mm: vertices in canonical space.
            vertex_colors: sRGB in 0..1.
            mtl_name: file name of the material library, which lies beside it.
        """
        rows = np.concatenate([verts_mm, vertex_colors], axis=1)
        verts = ("v %.4f %.4f %.4f %.4f %.4f %.4f\n" * len(rows)) % tuple(rows.ravel().tolist())
        head = f"# canonical face space, millimetres\nmtllib {mtl_name}\nusemtl face\n"
        return (head + verts + self._obj_uv + self._obj_faces).encode()

    @staticmethod
    def mtl(texture_name: str, lit: bool = False) -> bytes:
        """Returns the material library of an OBJ.

        Args:
            texture_name: file name of the texture, which lies beside it.
            lit: whether viewers shall light the texture: albedo yes, a photograph, which holds its own light, no.
        """
        return f"newmtl face\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum {int(lit)}\nmap_Kd {texture_name}\n".encode()

    def ply(
        self,
        verts_mm: Float[np.ndarray, "v 3"],
        normals: Float[np.ndarray, "v 3"],
        vertex_colors: Float[np.ndarray, "v 3"],
    ) -> bytes:
        """Returns a binary PLY in millimetres with normals and vertex colours.

        Args:
            verts_mm: vertices in canonical space.
            normals: unit vertex normals.
            vertex_colors: sRGB in 0..1.
        """
        names = {"<f4": ("x", "y", "z", "nx", "ny", "nz"), "u1": ("red", "green", "blue")}
        verts = np.empty(len(verts_mm), [(name, kind) for kind, of in names.items() for name in of])
        values = np.concatenate([verts_mm, _unit(normals)], axis=1), np.round(vertex_colors * 255)
        for of, columns in zip(names.values(), values, strict=True):
            for k, name in enumerate(of):
                verts[name] = columns[:, k]
        triangles = np.empty(len(self.faces), [("count", "u1"), ("verts", "<i4", (3,))])
        triangles["count"], triangles["verts"] = 3, self.faces
        head = [
            "ply",
            "format binary_little_endian 1.0",
            "comment canonical face space, millimetres",
            f"element vertex {len(verts)}",
            *(f"property float {name}" for name in names["<f4"]),
            *(f"property uchar {name}" for name in names["u1"]),
            f"element face {len(triangles)}",
            "property list uchar int vertex_indices",
            "end_header",
        ]
        return ("\n".join(head) + "\n").encode() + verts.tobytes() + triangles.tobytes()

    def glb(
        self,
        verts_mm: Float[np.ndarray, "v 3"],
        normals: Float[np.ndarray, "v 3"],
        vertex_colors: Float[np.ndarray, "v 3"],
        visibility: Float[np.ndarray, " v"],
        texture_png: bytes,
        name: str,
        physics: Mapping[str, np.ndarray] | None = None,
    ) -> bytes:
        """Returns a GLB in metres, +y up, looking along +z; its texture is shown unlit unless it is albedo.

        glTF multiplies COLOR_0 into the texture, so that one primitive with both would show the square of the
        colours; and Blender 4.5 fails on, or mixes up, two custom attributes of one mesh. The scene therefore holds
        the textured mesh with at most one custom attribute, and further meshes of the same vertices, which no node
        refers to, carry COLOR_0 (linear, as glTF asks) and the other values, one a mesh.

        Args:
            verts_mm: vertices in canonical space.
            normals: unit vertex normals.
            vertex_colors: sRGB in 0..1.
            visibility: how well the photograph sees each vertex, 0..1 (attribute _VISIBILITY).
            texture_png: texture image.
            name: name of node and mesh.
            physics: what a method with light estimated: `albedo` (v, 3) and `shading` (v, 3), linear, `light_sh`
                (9, 3) and perhaps `sigma_mm` (v). They become the attributes _ALBEDO, _SHADING and _SIGMA_MM of
                a mesh each, and `extras.light_sh` of the node; the texture then is albedo, and viewers light it.
        """
        binary = _Binary()
        small = len(verts_mm) <= 65535
        indices = binary.add(self.faces.astype(np.uint16 if small else np.uint32).ravel(), _ELEMENT)
        position = binary.add((verts_mm / 1000.0).astype(np.float32), _ARRAY, bounds=True)
        normal = binary.add(_unit(normals), _ARRAY)
        flipped = np.stack([self.uv[:, 0], 1.0 - self.uv[:, 1]], axis=1)
        texcoord = binary.add(flipped.astype(np.float32), _ARRAY)
        seen = binary.add(visibility.astype(np.float32), _ARRAY)
        linear = np.concatenate(
            [srgb_to_linear(torch.from_numpy(vertex_colors)).numpy(), np.ones((len(verts_mm), 1))], axis=1
        )
        color = binary.add(np.round(linear * 65535).astype(np.uint16), _ARRAY, normalized=True)
        image = binary.add_bytes(texture_png)
        shape = {"POSITION": position, "NORMAL": normal}
        physics = physics or {}
        more = [
            (key, {"attributes": {**shape, f"_{key.upper()}": binary.add(physics[key].astype(np.float32), _ARRAY)}})
            for key in ("albedo", "shading", "sigma_mm")
            if key in physics
        ]
        textured = {"attributes": {**shape, "TEXCOORD_0": texcoord, "_VISIBILITY": seen}, "indices": indices}
        colored = {"attributes": {**shape, "COLOR_0": color}, "indices": indices}
        plain = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        unlit = {"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
        shown = {"doubleSided": True} if physics else unlit
        node: dict[str, object] = {"name": name, "mesh": 0}
        if "light_sh" in physics:
            node["extras"] = {"light_sh": np.round(physics["light_sh"], 5).tolist()}
        document = {
            "asset": {"version": "2.0", "generator": "physface"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [node],
            "meshes": [
                {"name": name, "primitives": [{**textured, "material": 0}]},
                {"name": f"{name}-vertex-colors", "primitives": [{**colored, "material": 1}]},
                *({"name": f"{name}-{key}", "primitives": [{**part, "indices": indices}]} for key, part in more),
            ],
            "materials": [
                {"name": "face", "pbrMetallicRoughness": {**plain, "baseColorTexture": {"index": 0}}, **shown},
                {"name": "vertex-colors", "pbrMetallicRoughness": plain, **unlit},
            ],
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": image, "mimeType": "image/png"}],
            **binary.sections(),
        }
        return _container(document, bytes(binary.data))


class _Binary:
    """The binary chunk of a GLB and the accessors and views into it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, object]] = []

    def add_bytes(self, content: bytes, target: int | None = None) -> int:
        """Appends content on a 4-byte boundary and returns the index of its view."""
        self.data.extend(b"\0" * (-len(self.data) % 4))
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data.extend(content)
        return len(self.views) - 1

    def add(self, array: np.ndarray, target: int, bounds: bool = False, normalized: bool = False) -> int:
        """Appends an array and returns the index of its accessor."""
        kind = "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}"
        component = {"float32": _FLOAT, "uint16": _USHORT, "uint32": _UINT}[array.dtype.name]
        accessor: dict[str, object] = {
            "bufferView": self.add_bytes(np.ascontiguousarray(array).tobytes(), target),
            "componentType": component,
            "count": len(array),
            "type": kind,
        }
        if bounds:
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        if normalized:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def sections(self) -> dict[str, object]:
        """Returns the parts of the document that describe the chunk."""
        return {
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.data)}],
        }


def _container(document: dict[str, object], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, total)
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def _unit(normals: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 0.0, 1.0]).astype(np.float32)


def write_mesh(
    path: Path, verts: Float[Tensor, "v 3"], faces: Tensor, colors: Float[Tensor, "v 3"] | None = None
) -> None:
    """Writes a mesh with vertex colours as OBJ and GLB beside each other, in the template's own unit.

    Args:
        path: without an ending.
        verts: vertices.
        faces: triangles.
        colors: of the vertices, 0..1, or None.
    """
    painted = None if colors is None else (colors.clamp(0, 1) * 255).byte().numpy()
    mesh = trimesh.Trimesh(verts.numpy(), faces.numpy(), vertex_colors=painted, process=False)
    for ending in (".obj", ".glb"):
        mesh.export(path.with_suffix(ending))
