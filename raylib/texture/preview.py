"""The picture of one reconstructed face: landmarks, the mesh over the photograph, and views from the side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from raylib.lighting.color import linear_to_srgb, srgb_to_linear
from raylib.lighting.spherical_harmonics import sh_basis
from raylib.render import rasterize_pixels
from raylib.texture.kernels import paint_texture, paint_vertices

PANEL_PX = 288
_BACKGROUND = 238
_SHAPE_YAW_DEG = 25.0
_VIEWS_YAW_DEG = (-40.0, 40.0)
_SUPERSAMPLING = 2
_SUBPIXELS = tuple((y, x) for y in range(_SUPERSAMPLING) for x in range(_SUPERSAMPLING))
_OVERLAY_SHARE = 0.5
_KEY_LIGHT = np.array([0.49, 0.56, 0.67])  # unit vector in the viewer's space: x right, y up, z to the viewer
_BRIGHT_GREY = 0.6  # linear, of the brightest twentieth of the shading panel
_LAMPS = ((0.87, 0.20, 0.45), (-0.87, 0.20, 0.45), (0.0, 0.89, 0.45))  # from the subject's left, right, and above
_LAMP, _AMBIENT = 3.6, 0.3


@dataclass(frozen=True)
class PreviewMesh:
    """A textured face as the preview draws it.

    Attributes:
        verts_mm: vertices in canonical space.
        normals: unit vertex normals in canonical space.
        verts_px: x and y of the vertices in the photograph, and their depth.
        faces: triangles.
        uv: texture coordinates of the vertices.
        texture: texture image: the photograph's colours, or albedo where there is shading.
        shading: of the vertices in the estimated light, linear RGB, or None.
        transfer: self-shadow of the vertices (see `lighting`), or None.
    """

    verts_mm: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    verts_px: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    texture: UInt8[np.ndarray, "s s 3"]
    shading: Float[np.ndarray, "v 3"] | None = None
    transfer: Float[np.ndarray, "v 9"] | None = None


def preview(rgb: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "68 2"], mesh: PreviewMesh) -> Image.Image:
    """Returns five panels side by side: landmarks, overlay, bare shape, and the coloured mesh from both sides.

    A face with light gets a second row: shading, the face rendered again over the photograph, and under three lamps.

    Args:
        rgb: photograph or the part of it around the face.
        landmarks: detected landmarks in its pixels.
        mesh: the reconstructed face.
    """
    corner, side = photograph_square(np.concatenate([landmarks, mesh.verts_px[:, :2]]))
    photo = cut_square(rgb, corner, side, PANEL_PX)
    scale = PANEL_PX / side

    marked = Image.fromarray(photo)
    draw = ImageDraw.Draw(marked)
    for x, y in (landmarks - corner) * scale:
        draw.ellipse((x - 1.8, y - 1.8, x + 1.8, y + 1.8), fill=(255, 255, 255), outline=(220, 30, 60))

    on_panel = np.concatenate([(mesh.verts_px[:, :2] - corner) * scale, mesh.verts_px[:, 2:]], axis=1)
    pix_to_face, bary = _rasterized(on_panel, mesh.faces, PANEL_PX)
    clay = photo.astype(np.float32)
    paint_vertices(pix_to_face, bary, mesh.faces, _clay(mesh.normals), clay)
    overlay = (1 - _OVERLAY_SHARE) * photo + _OVERLAY_SHARE * clay

    panels = [np.asarray(marked), overlay, _side_view(mesh, _SHAPE_YAW_DEG, textured=False)]
    panels += [_side_view(mesh, yaw, textured=True) for yaw in _VIEWS_YAW_DEG]
    rows = [panels]
    if mesh.shading is not None and mesh.transfer is not None:
        rows.append(_light_panels(photo, mesh, pix_to_face, bary, mesh.shading, mesh.transfer))
    drawn = [np.concatenate([np.clip(p, 0, 255).astype(np.uint8) for p in row], axis=1) for row in rows]
    return Image.fromarray(np.concatenate(drawn, axis=0))


def lamp_sh(direction: Float[np.ndarray, " 3"], lamp: float, ambient: float) -> Float[np.ndarray, " 9"]:
    """Returns the nine harmonics of a lamp in a direction above light from everywhere."""
    coefficients = lamp * sh_basis(torch.from_numpy(direction).float())
    coefficients[0] += ambient * math.sqrt(4 * math.pi)
    return coefficients.numpy()


def _light_panels(
    photo: UInt8[np.ndarray, "p p 3"],
    mesh: PreviewMesh,
    pix_to_face: Int[np.ndarray, "p p"],
    bary: Float[np.ndarray, "p p 3"],
    shading: Float[np.ndarray, "v 3"],
    transfer: Float[np.ndarray, "v 9"],
) -> list[Float[np.ndarray, "p p 3"]]:
    """Returns shading, the rendering over the photograph, and the face under three lamps."""
    covered = (pix_to_face >= 0)[..., None]
    albedo = np.zeros(photo.shape, dtype=np.float32)
    paint_texture(pix_to_face, bary, mesh.faces, mesh.uv, mesh.texture, albedo)
    albedo = srgb_to_linear(torch.from_numpy(albedo / 255)).numpy()

    def lit(color: np.ndarray, light: np.ndarray, behind: np.ndarray | float) -> np.ndarray:
        painted = np.zeros(photo.shape, dtype=np.float32)
        paint_vertices(pix_to_face, bary, mesh.faces, np.maximum(light, 0).astype(np.float32), painted)
        return np.where(covered, 255 * linear_to_srgb(torch.from_numpy(color * painted)).numpy(), behind)

    # Dark skin is photographed under light that would burn out a grey head: exposed for its bright parts.
    grey = np.full_like(albedo, _BRIGHT_GREY / max(float(np.percentile(shading, 95)), 1e-3))
    panels = [lit(grey, shading, _BACKGROUND), lit(albedo, shading, photo)]
    for direction in _LAMPS:
        light = transfer @ lamp_sh(np.array(direction), _LAMP, _AMBIENT)
        panels.append(lit(albedo, np.repeat(light[:, None], 3, axis=1), 24.0))
    return panels


def photograph_square(points: Float[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, " 2"], float]:
    """Returns upper left corner and side of the part of the photograph that shows a face's landmarks and mesh."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max()) * 1.1
    return (low + high - side) / 2, side


def clay_view(
    verts_mm: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> UInt8[np.ndarray, "p p 3"]:
    """Returns the panel with the bare shape of a face in canonical space."""
    nothing = np.zeros((len(verts_mm), 3), np.float32)
    mesh = PreviewMesh(verts_mm, normals, nothing, faces, nothing[:, :2], np.zeros((1, 1, 3), np.uint8))
    return np.clip(_side_view(mesh, _SHAPE_YAW_DEG, textured=False), 0, 255).astype(np.uint8)


def cut_square(
    rgb: UInt8[np.ndarray, "h w 3"], corner: Float[np.ndarray, " 2"], side: float, px: int
) -> UInt8[np.ndarray, "p p 3"]:
    """Returns a square of the photograph at `px` pixels a side, grey where it reaches beyond the photograph."""
    low = np.floor(corner).astype(int) - 1
    high = np.ceil(corner + side).astype(int) + 1
    inner_low, inner_high = np.maximum(low, 0), np.minimum(high, rgb.shape[1::-1])
    square = np.full((high[1] - low[1], high[0] - low[0], 3), _BACKGROUND, dtype=np.uint8)
    if (inner_high > inner_low).all():
        (x0, y0), (x1, y1) = inner_low - low, inner_high - low
        square[y0:y1, x0:x1] = rgb[inner_low[1] : inner_high[1], inner_low[0] : inner_high[0]]
    left, top = (float(v) for v in corner - low)
    box = (left, top, left + side, top + side)
    image = Image.fromarray(square).resize((px, px), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def _clay(normals: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Returns grey vertex colours under a key light and a sky, 0..255."""
    key = np.clip(normals @ _KEY_LIGHT, 0, 1)
    sky = 0.5 + 0.5 * normals[:, 1]
    return np.repeat(np.clip(60 + 135 * key + 50 * sky, 0, 255)[:, None], 3, axis=1).astype(np.float32)


def _rasterized(
    verts_px: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], px: int
) -> tuple[Int[np.ndarray, "p p"], Float[np.ndarray, "p p 3"]]:
    """Returns the face of each pixel, -1 where there is none, and its barycentric coordinates there."""
    fragments = rasterize_pixels(verts_px[None], faces, (px, px))
    return fragments.pix_to_face[0], fragments.bary_coords[0]


def _side_view(mesh: PreviewMesh, yaw_deg: float, textured: bool) -> Float[np.ndarray, "p p 3"]:
    """Returns the mesh seen from `yaw_deg` to the side, as clay or with its texture."""
    yaw = np.deg2rad(yaw_deg)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    centre = (mesh.verts_mm.min(axis=0) + mesh.verts_mm.max(axis=0)) / 2
    seen = (mesh.verts_mm - centre) @ turn.T
    size = PANEL_PX * _SUPERSAMPLING
    scale = 0.9 * size / np.ptp(mesh.verts_mm[:, :2], axis=0).max()
    depth = 2 * np.abs(seen).max() - seen[:, 2]
    verts_px = np.stack([seen[:, 0] * scale + size / 2, size / 2 - seen[:, 1] * scale, depth], axis=1)
    image = np.full((size, size, 3), _BACKGROUND, dtype=np.float32)
    pix_to_face, bary = _rasterized(verts_px, mesh.faces, size)
    if textured:
        paint_texture(pix_to_face, bary, mesh.faces, mesh.uv, mesh.texture, image)
    else:
        paint_vertices(pix_to_face, bary, mesh.faces, _clay(mesh.normals @ turn.T), image)
    return np.mean([image[y::_SUPERSAMPLING, x::_SUPERSAMPLING] for y, x in _SUBPIXELS], axis=0)
