"""Faces drawn with colours at their vertices, through a camera or in a fixed view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from raylib.geometry.camera import Camera
from raylib.geometry.closest import surface_normals
from raylib.lighting.color import linear_to_srgb, srgb_to_linear
from raylib.lighting.spherical_harmonics import lambert_transfer, self_shadow_transfer
from raylib.render import rasterize_pixels


@dataclass(frozen=True)
class Drawing:
    """A drawn mesh.

    Attributes:
        image: values of the vertices, interpolated; zero where no triangle is.
        mask: where there is one.
    """

    image: Float[np.ndarray, "h w c"]
    mask: Bool[np.ndarray, "h w"]


def draw(
    verts: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    camera: Camera,
    values: Float[np.ndarray, "v c"],
    size: tuple[int, int],
) -> Drawing:
    """Returns values of the vertices as a camera sees them.

    Args:
        verts: vertices.
        faces: triangles.
        camera: a batch of one.
        values: what the vertices show.
        size: height and width in pixels.
    """
    points = torch.from_numpy(np.asarray(verts, dtype=np.float64))[None]
    seen = Camera(camera.R.double(), camera.T.double(), camera.focal_px.double(), camera.principal_px.double())
    depth = seen.to_camera(points)[0, :, 2:]
    pixels = torch.cat([seen.project(points)[0], depth], dim=1).numpy().astype(np.float32)
    return draw_pixels(pixels, faces, values, size)


def draw_pixels(
    verts_px: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], values: Float[np.ndarray, "v c"],
    size: tuple[int, int],
) -> Drawing:  # fmt: skip
    """Returns values of vertices that are given in pixels with their depth."""
    fragments = rasterize_pixels(verts_px[None], faces, size)
    face, bary = fragments.pix_to_face[0], fragments.bary_coords[0]
    mask = face >= 0
    image = np.zeros((*size, values.shape[1]))
    image[mask] = np.einsum("nk,nkc->nc", bary[mask].astype(np.float64), values[faces[face[mask]]])
    return Drawing(image, mask)


def transfer_of(
    verts: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], shadow: bool
) -> Float[np.ndarray, "v 9"]:
    """Returns transfer coefficients of a mesh's vertices (see `lighting`), with its own shadow if asked for."""
    normals = torch.from_numpy(surface_normals(verts, faces).astype(np.float32))[None]
    if not shadow:
        return lambert_transfer(normals)[0].double().numpy()
    points = torch.from_numpy(np.ascontiguousarray(verts, dtype=np.float32))[None]
    return self_shadow_transfer(points, normals, torch.from_numpy(faces))[0].double().numpy()


def shading(transfer: Float[np.ndarray, "v 9"], light_sh: Float[np.ndarray, "9 3"]) -> Float[np.ndarray, "v 3"]:
    """Returns what white matte vertices reflect of a light in their space, never less than nothing."""
    return np.maximum(transfer @ light_sh, 0.0)


def to_srgb(linear: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Returns sRGB in 0..1 of linear light, clipped."""
    return linear_to_srgb(torch.from_numpy(np.clip(linear, 0.0, 1.0))).numpy()


def to_linear(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Returns linear light of sRGB, both in 0..1."""
    return srgb_to_linear(torch.from_numpy(np.asarray(srgb, dtype=np.float64))).numpy()


def to_bytes(picture: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture in 0..1 with 8 bits."""
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
