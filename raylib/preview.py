"""The picture of one reconstructed face: landmarks, the mesh over the photograph, and views from the side."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from raylib.render import rasterize_pixels

PANEL_PX = 288
_BACKGROUND = 238
_VIEWS_DEG = (-40.0, 40.0)
_KEY_LIGHT = np.array([0.45, 0.55, 0.7])  # in the viewer's space: x right, y up, z to the viewer


def preview(
    rgb: UInt8[np.ndarray, "h w 3"],
    landmarks: Float[np.ndarray, "68 2"],
    verts_px: Float[np.ndarray, "v 3"],
    verts_mm: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    uv: Float[np.ndarray, "v 2"],
    texture: UInt8[np.ndarray, "s s 3"],
) -> Image.Image:
    """Returns five panels side by side: landmarks, overlay, bare shape, and the coloured mesh from both sides.

    Args:
        rgb: photograph or the part of it around the face.
        landmarks: detected landmarks in its pixels.
        verts_px: x and y of the vertices in its pixels, and their depth.
        verts_mm: vertices in canonical space.
        normals: vertex normals in canonical space.
        faces: triangles.
        uv: texture coordinates of the vertices.
        texture: texture image.
    """
    photo, to_panel = _photo_panel(rgb, landmarks, verts_px)
    size = PANEL_PX
    marked = Image.fromarray(photo)
    draw = ImageDraw.Draw(marked)
    for x, y in to_panel(landmarks):
        draw.ellipse((x - 1.8, y - 1.8, x + 1.8, y + 1.8), fill=(255, 255, 255), outline=(220, 30, 60))

    on_photo = np.concatenate([to_panel(verts_px[:, :2]), verts_px[:, 2:]], axis=1)
    covered, overlay = _render(on_photo, faces, _clay(normals), size)
    blended = np.where(covered[..., None], 0.35 * photo + 0.65 * overlay, photo)

    panels = [np.asarray(marked), blended, _side_view(verts_mm, normals, faces, None, 25.0)]
    panels += [_side_view(verts_mm, normals, faces, (uv, texture), yaw) for yaw in _VIEWS_DEG]
    strip = np.concatenate([np.clip(p, 0, 255).astype(np.uint8) for p in panels], axis=1)
    return Image.fromarray(strip)


def _photo_panel(rgb, landmarks, verts_px):  # type: ignore[no-untyped-def]
    """Returns the square of the photograph around the face, and the map from its pixels to the panel's."""
    points = np.concatenate([landmarks, verts_px[:, :2]])
    low, high = points.min(axis=0), points.max(axis=0)
    centre, side = (low + high) / 2, float((high - low).max()) * 1.25
    corner = centre - side / 2
    scale = PANEL_PX / side
    box = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    # Pillow's resize cuts and reduces in one step, but only inside the picture: widen it where the square sticks out.
    pad = int(max(0, -corner.min(), (corner + side - np.array(rgb.shape[1::-1])).max())) + 2
    padded = np.pad(rgb, ((pad, pad), (pad, pad), (0, 0)), constant_values=_BACKGROUND)
    left, top, right, bottom = (float(v) + pad for v in box)
    image = Image.fromarray(padded).resize(
        (PANEL_PX, PANEL_PX), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    return np.asarray(image), lambda p: (p - corner) * scale


def _clay(normals: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Returns grey vertex colours under a key light and a sky, 0..255."""
    key = np.clip(normals @ (_KEY_LIGHT / np.linalg.norm(_KEY_LIGHT)), 0, 1)
    sky = 0.5 + 0.5 * normals[:, 1]
    return np.repeat(np.clip(60 + 135 * key + 50 * sky, 0, 255)[:, None], 3, axis=1)


def _render(verts, faces, colors, size):  # type: ignore[no-untyped-def]
    """Returns where the mesh covers the panel, and its interpolated vertex colours there."""
    fragments = rasterize_pixels(verts[None], faces, (size, size))
    face, bary = fragments.pix_to_face[0], fragments.bary_coords[0]
    covered = face >= 0
    image = np.full((size, size, 3), float(_BACKGROUND))
    image[covered] = np.einsum("nk,nkc->nc", bary[covered], colors[faces[face[covered]]])
    return covered, image


def _side_view(verts_mm, normals, faces, textured, yaw_deg):  # type: ignore[no-untyped-def]
    """Returns the mesh seen from `yaw_deg` to the side, as clay or with its texture."""
    size, supersampling = PANEL_PX, 2
    yaw = np.deg2rad(yaw_deg)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    centre = (verts_mm.min(axis=0) + verts_mm.max(axis=0)) / 2
    seen = (verts_mm - centre) @ turn.T
    big = size * supersampling
    scale = 0.88 * big / np.ptp(verts_mm[:, :2], axis=0).max()
    pixels = np.stack([seen[:, 0] * scale + big / 2, big / 2 - seen[:, 1] * scale, 1000 - seen[:, 2]], axis=1)
    if textured is None:
        _, image = _render(pixels, faces, _clay(normals @ turn.T), big)
    else:
        uv, texture = textured
        covered, at = _render(pixels, faces, np.concatenate([uv, uv[:, :1]], axis=1), big)
        side = texture.shape[0]
        column = np.clip(at[..., 0] * side, 0, side - 1).astype(int)
        row = np.clip((1 - at[..., 1]) * side, 0, side - 1).astype(int)
        image = np.where(covered[..., None], texture[row, column].astype(float), float(_BACKGROUND))
    return image.reshape(size, supersampling, size, supersampling, 3).mean(axis=(1, 3))
