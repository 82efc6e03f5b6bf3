"""Meshes come back from their files as they went in, and look right to programs that know only the standards."""

import io
import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from raylib.geometry.mesh import vertex_normals
from raylib.io.meshes import MeshEncoder
from raylib.morphable.model import load_prior


@pytest.fixture(scope="module")
def face():
    prior = load_prior()
    rng = np.random.default_rng(0)
    verts = prior.mean.numpy().astype(np.float32)
    texture = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    texture.save(buffer, "PNG")
    return {
        "verts": verts,
        "normals": vertex_normals(prior.mean[None], prior.faces)[0].numpy(),
        "faces": prior.faces.numpy(),
        "uv": prior.uv.numpy(),
        "colors": rng.random((len(verts), 3)).astype(np.float32),
        "visibility": rng.random(len(verts)).astype(np.float32),
        "texture": texture,
        "png": buffer.getvalue(),
    }


@pytest.fixture(scope="module")
def glb(face):
    encoder = MeshEncoder(face["faces"], face["uv"])
    args = (face["verts"], face["normals"], face["colors"], face["visibility"], face["png"], "abc-0")
    assert encoder.glb(*args) == encoder.glb(*args)
    return encoder.glb(*args)


def document(glb: bytes) -> tuple[dict, bytes]:
    magic, version, total = struct.unpack_from("<4sII", glb)
    length, kind = struct.unpack_from("<I4s", glb, 12)
    assert (magic, version, total, kind) == (b"glTF", 2, len(glb), b"JSON")
    size, kind = struct.unpack_from("<I4s", glb, 20 + length)
    assert kind == b"BIN\0" and 28 + length + size == total and size % 4 == 0 and length % 4 == 0
    return json.loads(glb[20 : 20 + length]), glb[28 + length :]


def test_glb_round_trip(face, glb):
    scene = trimesh.load(io.BytesIO(glb), file_type="glb")
    mesh = scene.to_mesh()
    assert len(mesh.vertices) == 2113 and len(mesh.faces) == 4096  # the default scene holds one mesh
    np.testing.assert_allclose(mesh.vertices * 1000, face["verts"], atol=1e-4)
    np.testing.assert_array_equal(mesh.faces, face["faces"])
    shown = scene.geometry["abc-0"]
    np.testing.assert_allclose(shown.visual.uv, face["uv"], atol=1e-6)
    picture = np.asarray(shown.visual.material.baseColorTexture.convert("RGB"))
    np.testing.assert_array_equal(picture, np.asarray(face["texture"]))


def test_glb_is_upright_in_metres_and_faces_forward(glb):
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb").to_mesh()
    width, height, _ = mesh.extents
    assert 0.12 < width < 0.18 and 0.15 < height < 0.25
    nose = mesh.vertices[mesh.vertices[:, 2].argmax()]
    assert abs(nose[0]) < 0.005  # the nose is the foremost point, on the plane of symmetry, along +z
    assert mesh.vertex_normals[mesh.vertices[:, 2].argmax()][2] > 0.5


def test_glb_keeps_vertex_colours_apart_from_the_texture(face, glb):
    gltf, binary = document(glb)
    textured, colored = (mesh["primitives"][0]["attributes"] for mesh in gltf["meshes"])
    assert "TEXCOORD_0" in textured and "COLOR_0" not in textured  # viewers would multiply the two
    assert [node["mesh"] for node in gltf["nodes"]] == [0]
    accessor = gltf["accessors"][colored["COLOR_0"]]
    view = gltf["bufferViews"][accessor["bufferView"]]
    raw = np.frombuffer(binary, np.uint16, accessor["count"] * 4, view["byteOffset"]).reshape(-1, 4) / 65535
    srgb = np.where(raw <= 0.0031308, raw * 12.92, 1.055 * raw ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb[:, :3], face["colors"], atol=1e-3)
    seen = gltf["accessors"][textured["_VISIBILITY"]]
    offset = gltf["bufferViews"][seen["bufferView"]]["byteOffset"]
    np.testing.assert_array_equal(np.frombuffer(binary, np.float32, seen["count"], offset), face["visibility"])


def test_glb_gives_each_mesh_one_custom_attribute_at_most(face):
    """Blender's importer loses the order of several: it fails on unlike types and swaps the data of like ones."""
    rng, count = np.random.default_rng(3), len(face["verts"])
    physics = {
        "albedo": rng.random((count, 3), np.float32),
        "shading": rng.random((count, 3), np.float32),
        "light_sh": rng.normal(size=(9, 3)).round(4),
        "sigma_mm": rng.random(count, np.float32),
    }
    encoder = MeshEncoder(face["faces"], face["uv"])
    args = (face["verts"], face["normals"], face["colors"], face["visibility"], face["png"], "abc-0", physics)
    gltf, _ = document(encoder.glb(*args))
    custom = [[a for a in m["primitives"][0]["attributes"] if a.startswith("_")] for m in gltf["meshes"]]
    assert max(map(len, custom)) == 1 and all(len(m["primitives"]) == 1 for m in gltf["meshes"])
    assert [node["mesh"] for node in gltf["nodes"]] == [0]  # no program shows a face twice
    assert gltf["nodes"][0]["extras"]["light_sh"] == physics["light_sh"].tolist()
    # A reader that knows only the standard finds the values, at the vertices that they belong to.
    scene = trimesh.load(io.BytesIO(encoder.glb(*args)), file_type="glb", process=False)
    values = {"": ("_VISIBILITY", face["visibility"])}
    values |= {f"-{key}": (f"_{key.upper()}", physics[key]) for key in ("albedo", "shading", "sigma_mm")}
    for ending, (attribute, expected) in values.items():
        mesh = scene.geometry[f"abc-0{ending}"]
        np.testing.assert_array_equal(mesh.vertices, scene.geometry["abc-0"].vertices)
        found = mesh.vertex_attributes[attribute]
        np.testing.assert_array_equal(np.asarray(found).reshape(expected.shape), expected)


def test_glb_accessors_are_aligned_and_inside_the_buffer(glb):
    gltf, binary = document(glb)
    assert gltf["buffers"][0]["byteLength"] <= len(binary)
    for view in gltf["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= gltf["buffers"][0]["byteLength"]


def test_obj_round_trip(face, tmp_path):
    encoder = MeshEncoder(face["faces"], face["uv"])
    (tmp_path / "x.obj").write_bytes(encoder.obj(face["verts"], face["colors"], "x.mtl"))
    (tmp_path / "x.mtl").write_bytes(encoder.mtl("x.png"))
    (tmp_path / "x.png").write_bytes(face["png"])
    mesh = trimesh.load(tmp_path / "x.obj", process=False)
    assert len(mesh.faces) == 4096
    order = np.argsort(np.lexsort(mesh.vertices.T))  # trimesh may reorder vertices; as sets they agree
    expected = face["verts"][np.lexsort(face["verts"].round(4).T)]
    np.testing.assert_allclose(mesh.vertices[np.argsort(order)], expected, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(mesh.visual.material.image.convert("RGB")), np.asarray(face["texture"]))
    triangles = np.sort(mesh.triangles.reshape(-1, 9).round(2), axis=0)
    np.testing.assert_allclose(
        triangles, np.sort(face["verts"][face["faces"]].reshape(-1, 9).round(2), axis=0), atol=0.011
    )


def test_meshes_beyond_16_bit_indices(face):
    n = 70_000
    rng = np.random.default_rng(1)
    verts = rng.random((n, 3)).astype(np.float32)
    faces = np.stack([np.arange(n - 2), np.arange(1, n - 1), np.arange(2, n)], axis=1)
    encoder = MeshEncoder(faces, rng.random((n, 2)))
    glb = encoder.glb(verts, verts, verts, verts[:, 0], face["png"], "big")
    mesh = trimesh.load(io.BytesIO(glb), file_type="glb", process=False).to_mesh()
    np.testing.assert_array_equal(mesh.faces, faces)
