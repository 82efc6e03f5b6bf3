"""Meshes open in a real Blender: upright, at true size, once, textured and smooth. `make blender-check` brings it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from report_runs import png

from raylib.geometry.mesh import vertex_normals
from raylib.io.meshes import MeshEncoder
from raylib.morphable.model import load_prior

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
BLENDER = ROOT / ".venv-blender"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of one lopsided face as jobs write them, and what they hold."""
    folder, rng, prior = tmp_path_factory.mktemp("blender"), np.random.default_rng(5), load_prior()
    identity = torch.randn(1, len(prior.identity), generator=torch.Generator().manual_seed(5))
    verts = prior.verts(identity)
    encoder = MeshEncoder(prior.faces.numpy(), prior.uv.numpy())
    normals = vertex_normals(verts, prior.faces)[0].numpy()
    verts = verts[0].numpy()
    count = len(verts)
    colors, seen = rng.random((count, 3), np.float32), rng.random(count, np.float32)
    light = {
        "albedo": rng.random((count, 3), np.float32),
        "shading": rng.random((count, 3), np.float32),
        "light_sh": rng.normal(size=(9, 3)),
    }
    texture = png(rng.integers(0, 255, (64, 64, 3), np.uint8))
    grey, grey_texture = np.full_like(colors, 128 / 255), png(np.full((4, 4, 3), 128, np.uint8))
    glbs = {
        "photograph": (colors, texture, {}),
        "albedo": (colors, texture, light),
        "sigma": (colors, texture, light | {"sigma_mm": rng.random(count, np.float32)}),
        "no-pixels": (grey, grey_texture, {}),
    }
    for name, (tint, picture, physics) in glbs.items():
        content = encoder.glb(verts, normals, tint, seen, picture, name, physics)
        (folder / f"{name}.glb").write_bytes(content)
    for name, lit in (("lit", True), ("unlit", False)):
        (folder / f"{name}.obj").write_bytes(encoder.obj(verts, colors, f"{name}.mtl"))
        (folder / f"{name}.mtl").write_bytes(encoder.mtl(f"{name}.png", lit))
        (folder / f"{name}.png").write_bytes(texture)
    return {
        "folder": folder,
        "upright_mm": verts[:, [0, 2, 1]] * [1, -1, 1],  # Blender's up is +z and a face looks along -y
        "normals": normals[:, [0, 2, 1]] * [1, -1, 1],
        "faces": prior.faces.numpy(),
        "uv": prior.uv.numpy(),
        "visibility": seen,
    }


def opened(folder: Path, seed: int) -> dict[str, dict]:
    """Returns what Blender makes of the meshes of a folder, by file; the seed orders Python's sets."""
    if not list(BLENDER.glob(".installed-*")):
        pytest.skip("Blender is not installed: run `make blender-check`")
    files = sorted(str(path) for path in folder.iterdir() if path.suffix in (".glb", ".obj"))
    ran = subprocess.run(
        [BLENDER / "bin" / "python", ROOT / "tests" / "blender_check.py", *files],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": ""},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return {entry["file"]: entry for entry in json.loads(ran.stdout.strip().splitlines()[-1])}


@pytest.mark.parametrize("seed", range(5))
def test_blender_shows_what_was_written(written, seed):
    found = opened(written["folder"], seed)
    assert len(found) == 6
    for file, entry in found.items():
        (mesh,) = entry["meshes"]
        assert entry["objects"] == [mesh["name"]], file  # one object: no face lies in another
        upright = written["upright_mm"] / (1000 if file.endswith(".glb") else 1)
        size = np.subtract(mesh["high"], mesh["low"])
        np.testing.assert_allclose(size, np.ptp(upright, axis=0), rtol=0.01)
        np.testing.assert_allclose(mesh["verts"], upright, atol=1e-6 if file.endswith(".glb") else 1e-3)
        np.testing.assert_array_equal(mesh["faces"], written["faces"])
        np.testing.assert_allclose(mesh["corner_uv"], written["uv"][written["faces"].ravel()], atol=1e-5)
        (material,) = mesh["materials"]
        assert material["textures"] == [[4, 4] if file == "no-pixels.glb" else [64, 64]], file
        assert mesh["smooth"], file
        normals = np.asarray(mesh["corner_normals"])
        cosine = (normals * written["normals"][written["faces"].ravel()]).sum(1)
        assert cosine.min() > 0.999 if file.endswith(".glb") else np.median(cosine) > 0.99, file
    glbs = {name.removesuffix(".glb"): entry["meshes"][0] for name, entry in found.items() if name.endswith(".glb")}
    for name, mesh in glbs.items():
        assert list(mesh["attributes"]) == ["_VISIBILITY"]
        np.testing.assert_array_equal(np.float32(mesh["attributes"]["_VISIBILITY"]), written["visibility"])
        lit = name in ("albedo", "sigma")
        assert ("light_sh" in mesh["properties"]) == lit
        assert ("EMISSION" in mesh["materials"][0]["shaders"]) != lit  # a photograph has its light in it
    for name in ("lit.obj", "unlit.obj"):
        assert found[name]["meshes"][0]["colors"]  # the vertex colours came along
