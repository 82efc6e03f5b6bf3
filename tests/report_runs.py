"""Runs that no photograph was needed for: faces drawn from the shipped prior, written as the job writes them."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raylib.geometry.camera import Camera, euler_deg, rotation_from_euler_deg
from raylib.geometry.mesh import vertex_normals
from raylib.io.meshes import MeshEncoder
from raylib.lighting.spherical_harmonics import self_shadow_transfer
from raylib.morphable.model import load_prior
from raylib.reconstruction.schema import to_parquet
from raylib.texture.preview import PANEL_PX

HOSTILE = (
    "a \"quoted\" <b>bold</b> & 'single'.jpg",
    "</script><script>window.hacked=1</script>.png",
    "<img src=x onerror=window.hacked=1>.jpg",
    "javascript:window.hacked=1.jpg",
    "line\u2028end\u2029 and \u202eright to left.jpg",
)


def faces(count: int, seed: int = 0) -> tuple[torch.Tensor, Camera]:
    """Returns faces of the prior and cameras of pictures of 512 pixels that show them."""
    prior, generator = load_prior(), torch.Generator().manual_seed(seed)
    verts = prior.verts(torch.randn(count, len(prior.identity), generator=generator))
    angles = torch.randn(count, 3, generator=generator) * torch.tensor([15.0, 8.0, 6.0])
    place = torch.tensor([0.0, 20.0, 600.0]).repeat(count, 1)
    return verts, Camera(
        rotation_from_euler_deg(angles), place, torch.full((count,), 1200.0), torch.full((count, 2), 256.0)
    )


def face_rows(count: int, seed: int = 0, estimated: bool = False) -> list[dict]:
    """Returns rows of good faces without files, one an image; `estimated` adds albedo, light and sigma."""
    prior, generator = load_prior(), np.random.default_rng(seed)
    verts, camera = faces(count, seed)
    landmarks = camera.project(verts)[:, prior.landmark_verts.clamp(min=0)].numpy()
    landmarks += generator.normal(0, 1.5, landmarks.shape).astype(np.float32)
    yaw, pitch, roll = euler_deg(camera.R).T.tolist()
    rows = []
    for i in range(count):
        sha = f"{seed:04x}{i:012x}{0:048x}"
        low, high = landmarks[i].min(0), landmarks[i].max(0)
        row = {
            "image_uri": f"/photographs/{i:05d}.jpg",
            "image_sha256": sha,
            "width": 512,
            "height": 512,
            "face_index": 0,
            "face_id": f"{sha[:16]}-0",
            "status": "ok",
            "detector": "hog",
            "detector_score": float(generator.gamma(4, 0.4)),
            "face_box": np.concatenate([low, high]),
            "landmarks_68": landmarks[i].ravel(),
            "landmark_spread": float(generator.gamma(2, 0.005)),
            "quality": float(generator.beta(8, 1)),
            "occlusion": float(generator.beta(1, 20)),
            "method": "meshnet" if estimated else "landmarks",
            "morphable_model": "prior",
            "config_sha256": "0" * 64,
            "focal_px": 1200.0,
            "principal_px": camera.principal_px[i].numpy(),
            "R": camera.R[i].numpy().ravel(),
            "T_mm": camera.T[i].numpy(),
            "yaw_deg": yaw[i],
            "pitch_deg": pitch[i],
            "roll_deg": roll[i],
            "verts_mm": verts[i].numpy().ravel(),
            "vertex_source": generator.choice(3, len(prior.mean), p=[0.7, 0.2, 0.1]).astype(np.uint8),
            "vertex_visibility": generator.random(len(prior.mean)).astype(np.float32),
            "landmark_error_px": 1.9,
            "landmark_nme": float(generator.gamma(9, 0.0025)),
            **{f"seconds_{s}": float(generator.gamma(3, 0.02)) for s in ("read", "decode", "detect", "fit", "write")},
        }
        if estimated:
            row |= _appearance(verts[i], prior.faces, generator)
        rows.append(row)
    return rows


def _appearance(verts: torch.Tensor, triangles: torch.Tensor, generator: np.random.Generator) -> dict:
    """Returns albedo, light, sigma, and the colours that follow from the first two."""
    normals = vertex_normals(verts[None], triangles)
    light = np.zeros((9, 3), np.float32)
    light[0] = 2.4
    light[[1, 2, 3]] = generator.normal(0.5, 0.3, (3, 1))
    tone = 0.35 + 0.25 * torch.sigmoid(verts / 25)
    shading = self_shadow_transfer(verts[None], normals, triangles)[0] @ torch.from_numpy(light)
    colors = (tone * shading.clamp(0, 2)).clamp(0, 1) ** (1 / 2.2)
    return {
        "albedo": tone.numpy().ravel(),
        "light_sh": light.ravel(),
        "sigma_mm": (0.5 + np.abs(verts[:, 0].numpy()) / 60).astype(np.float32),
        "vertex_colors": colors.numpy().ravel(),
        "photometric_psnr": float(generator.normal(27, 3)),
    }


def add_files(output: Path, rows: list[dict], texture: bytes | None = None, preview: bytes | None = None) -> None:
    """Writes OBJ, GLB, texture and preview of each row's face, and names them in the row."""
    prior = load_prior()
    encoder = MeshEncoder(prior.faces.numpy(), prior.uv.numpy())
    texture = texture or png(np.random.default_rng(1).integers(90, 200, (64, 64, 3), np.uint8))
    preview = preview or png(np.full((PANEL_PX, 5 * PANEL_PX, 3), 90, np.uint8))
    for row in rows:
        folder, name = output / "meshes" / row["face_id"].split("-")[0], row["face_id"]
        folder.mkdir(parents=True, exist_ok=True)
        verts = np.asarray(row["verts_mm"]).reshape(-1, 3)
        normals = vertex_normals(torch.from_numpy(verts)[None], prior.faces)[0].numpy()
        grey = np.full_like(verts, 0.5)
        files = {
            "obj_uri": (f"{name}.obj", encoder.obj(verts, grey, f"{name}.mtl")),
            "glb_uri": (f"{name}.glb", encoder.glb(verts, normals, grey, row["vertex_visibility"], texture, name)),
            "texture_uri": (f"{name}.png", texture),
            "preview_uri": (
                f"{name}-preview.png",
                preview or png(np.full((PANEL_PX, 5 * PANEL_PX, 3), 90, np.uint8)),
            ),
        }
        for column, (file, content) in files.items():
            (folder / file).write_bytes(content)
            row[column] = f"{folder.relative_to(output)}/{file}"


def failed_rows(names: tuple[str, ...] = HOSTILE) -> list[dict]:
    """Returns rows of images with hostile names that failed, with hostile messages."""
    return [
        {
            "image_uri": f"/photographs/{name}",
            "image_sha256": "f" * 64,
            "status": ("decode_error", "timeout", "no_face", "native_crash", "too_large")[i % 5],
            "error_stage": "decode",
            "error_message": f"OSError: cannot read {name}",
            "method": "landmarks",
            "config_sha256": "0" * 64,
        }
        for i, name in enumerate(names)
    ]


def write_run(output: Path, rows: list[dict], **settings) -> Path:
    """Writes the rows in two parts, and run.json with these settings."""
    (output / "faces").mkdir(parents=True)
    half = (len(rows) + 1) // 2
    for n, part in enumerate((rows[:half], rows[half:])):
        if part:
            (output / "faces" / f"part-{n}.parquet").write_bytes(to_parquet(part))
    config = {"method": "landmarks", "morphable_model": "prior", "privacy": "none", "hide_names": False} | settings
    record = {
        "job": "reconstruct",
        "config": config,
        "morphable_model": "prior",
        "seconds": 12.5,
        "images_per_second": 9.5,
        "started": "2026-01-02T03:04:05Z",
        "versions": {"physface": "0"},
        "passed_over": {"hidden": 1234, "no image (.txt)": 1},
    }
    (output / "run.json").write_text(json.dumps(record))
    return output


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
