"""Colours of a fitted face from its photograph: a texture image and vertex colours that say where they came from.

A point of the surface takes the photograph's colour where it is seen: inside the picture, in front of everything
else of the mesh, not at a grazing angle, and not covered by hair or an object. Elsewhere it takes the colour of its
mirror image, and where that is not seen either a smooth continuation of what surrounds it. The three blend by weight,
so that no seam shows. Light falls differently on the two sides: where both are seen, the ratio of their colours is
measured on a coarse grid, and continued smoothly it corrects what is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.spatial import cKDTree

from raylib.lighting.color import linear_to_srgb, srgb_to_linear
from raylib.render import rasterize_pixels
from raylib.texture.kernels import complete, inner_share, light_ratio, pull, push, sample, scatter, unshade

VISIBLE, MIRRORED, FILLED = 0, 1, 2
"""Where a vertex colour came from: the photograph, the mirrored side, or its surroundings."""

_SIDES = (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072)
_TEXELS_PER_PIXEL = 1.8  # on average over the face; the layout gives cheeks and chin about half of that
_GAIN_GRID = 16  # cells a side of the grid on which the light of both sides is compared
_MAX_LOG_GAIN = 0.35
_OUTLINE_PX = 4  # of the depth buffer: the photograph's colours fade out this far from the mesh's outline
_ZBUFFER_PX = 256  # side of the depth buffer of the occlusion test, laid over the face
_DARK, _BRIGHT = 0.08, 0.25  # shading below which the photograph tells nothing of the albedo, and above which it does

# sRGB to linear light by sRGB, and back by the square root of linear light, where the curve is nearly straight.
_GRID = torch.linspace(0, 1, 4096, dtype=torch.float64)
_TO_LINEAR = srgb_to_linear(_GRID).float().numpy()
_TO_SRGB = linear_to_srgb(_GRID**2).float().numpy()


@dataclass(frozen=True)
class TextureLayout:
    """What texturing needs to know of a mesh besides its vertices; made once for a model.

    Attributes:
        faces: triangles.
        uv: texture coordinates of the vertices, (0, 0) at the bottom left.
        mirror_verts: for each vertex the one across the plane of symmetry.
    """

    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    mirror_verts: Int[np.ndarray, " v"]

    @staticmethod
    def of(
        mean: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        uv: Float[np.ndarray, "v 2"] | None,
        mirror_verts: Int[np.ndarray, " v"] | None,
    ) -> TextureLayout:
        """Returns the topology of a model; one without texture coordinates is unrolled from a vertical cylinder,
        one without mirror pairs gets the vertex nearest to the reflected position."""
        if uv is None:
            uv = _cylinder_uv(mean)
        if mirror_verts is None:
            mirror_verts = np.asarray(cKDTree(mean).query(mean * np.array([-1.0, 1.0, 1.0]))[1])
        return TextureLayout(
            np.ascontiguousarray(faces, dtype=np.int64),
            np.ascontiguousarray(uv, dtype=np.float32),
            np.ascontiguousarray(mirror_verts, dtype=np.int64),
        )


@dataclass(frozen=True)
class _Layout:
    """Where the texels of a texture lie on the mesh.

    Attributes:
        size: side of the texture.
        texel: index into the flattened texture of each texel that a triangle covers.
        face, bary: the point of the mesh under it.
        mirror: index into this list of the point across the plane of symmetry, -1 where none is covered.
        cell: cell of the coarse grid of light gains.
    """

    size: int
    texel: Int[np.ndarray, " n"]
    face: Int[np.ndarray, " n"]
    bary: Float[np.ndarray, "n 3"]
    mirror: Int[np.ndarray, " n"]
    cell: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class FaceMask:
    """Where a photograph shows the bare face, not hair, background or what covers it.

    Attributes:
        share: how much of the pixel is bare face, 0..1.
        from_photo: affine map from pixels of the photograph to pixels of `share`.
    """

    share: Float[np.ndarray, "m m"]
    from_photo: Float[np.ndarray, "2 3"]


_NO_MASK = FaceMask(np.ones((1, 1), dtype=np.float32), np.zeros((2, 3)))


@dataclass(frozen=True)
class Appearance:
    """Albedo and light that were estimated for a face.

    Attributes:
        albedo: of the vertices, linear RGB.
        shading: of the vertices, linear RGB: what a white matte surface would show.
    """

    albedo: Float[np.ndarray, "v 3"]
    shading: Float[np.ndarray, "v 3"]


@dataclass(frozen=True)
class FaceColors:
    """The colours of one face.

    Attributes:
        texture: texture image, sRGB: the photograph, or the albedo where an appearance was estimated.
        vertex_colors: sRGB in 0..1.
        vertex_source: `VISIBLE`, `MIRRORED` or `FILLED` of each vertex.
        vertex_visibility: how well the photograph sees each vertex, 0..1.
    """

    texture: UInt8[np.ndarray, "s s 3"]
    vertex_colors: Float[np.ndarray, "v 3"]
    vertex_source: UInt8[np.ndarray, " v"]
    vertex_visibility: Float[np.ndarray, " v"]


class Texturer:
    """Samples the colours of faces of one topology; keeps what depends on the topology alone.

    Args:
        topology: the mesh's.
        max_texture_px: largest side of a texture; smaller ones are chosen where the photograph shows less.
    """

    def __init__(self, topology: TextureLayout, max_texture_px: int = 1024):
        self.topology = topology
        self.max_texture_px = max_texture_px
        self._layout = lru_cache(maxsize=8)(self._make_layout)
        corner_face = np.zeros(len(topology.uv), dtype=np.int64)
        corner = np.zeros(len(topology.uv), dtype=np.int64)
        for k in range(3):
            corner_face[topology.faces[:, k]] = np.arange(len(topology.faces))
            corner[topology.faces[:, k]] = k
        self._vertex_face, self._vertex_bary = corner_face, np.eye(3, dtype=np.float32)[corner]

    def __call__(
        self,
        rgb: UInt8[np.ndarray, "h w 3"],
        verts_cam: Float[np.ndarray, "v 3"],
        normals_cam: Float[np.ndarray, "v 3"],
        focal_px: float,
        principal_px: Float[np.ndarray, " 2"],
        mask: FaceMask | None = None,
        appearance: Appearance | None = None,
    ) -> FaceColors:
        """Returns the colours of a face seen in a photograph.

        Args:
            rgb: photograph, or the part of it around the face (with `principal_px` moved along).
            verts_cam: vertices in camera space, millimetres, all before the camera.
            normals_cam: unit normals of the vertices in camera space, out of the face.
            focal_px: focal length.
            principal_px: principal point (x, y).
            mask: where the photograph shows the bare face; everywhere if it is not given.
            appearance: albedo and shading of the vertices; with it the texture is the albedo, in the photograph's
                detail: the photograph divided by the shading.
        """
        mask = mask or _NO_MASK
        topology = self.topology
        verts = np.ascontiguousarray(verts_cam, dtype=np.float32)
        projected = verts[:, :2] / verts[:, 2:] * np.float32(focal_px) + principal_px.astype(np.float32)
        low, high = projected.min(axis=0), projected.max(axis=0)
        extent = float((high - low).max())
        layout = self._layout(self._texture_px(extent))
        scale = _ZBUFFER_PX / max(extent, 1e-3)
        window = np.concatenate([(projected - low) * np.float32(scale), verts[:, 2:]], axis=1)
        zbuf = rasterize_pixels(window[None], topology.faces, (_ZBUFFER_PX, _ZBUFFER_PX)).zbuf[0]
        color, weight = sample(
            np.ascontiguousarray(rgb),
            verts,
            np.ascontiguousarray(normals_cam, dtype=np.float32),
            topology.faces,
            np.concatenate([layout.face, self._vertex_face]),
            np.concatenate([layout.bary, self._vertex_bary]),
            np.float32(focal_px),
            principal_px.astype(np.float32),
            zbuf,
            inner_share(zbuf, _OUTLINE_PX),
            low.astype(np.float32),
            np.float32(scale),
            np.ascontiguousarray(mask.share, dtype=np.float32),
            mask.from_photo.astype(np.float32),
        )
        n = len(layout.texel)
        texture, gain = self._texture(layout, color[:n], weight[:n])
        colors = self._with_vertices(texture, gain, color[n:], weight[n:])
        if appearance is None:
            return colors
        return replace(colors, texture=self._albedo_texture(layout, color[:n], weight[:n], appearance))

    def _texture_px(self, extent_px: float) -> int:
        """Returns the smallest side that keeps the photograph's resolution over the face, within the limits."""
        wanted = extent_px * _TEXELS_PER_PIXEL
        return next((side for side in _SIDES if wanted <= side < self.max_texture_px), self.max_texture_px)

    def _texture(
        self, layout: _Layout, color: Float[np.ndarray, "n 3"], weight: Float[np.ndarray, " n"]
    ) -> tuple[UInt8[np.ndarray, "s s 3"], Float[np.ndarray, "s s 3"]]:
        """Returns the texture, and for each texel by how much the light there exceeds that of the place across."""
        ratio = light_ratio(layout.cell, color, weight, layout.mirror, _GAIN_GRID)
        coarse = np.exp(np.clip(_pull_push(ratio, 0.0), -_MAX_LOG_GAIN, _MAX_LOG_GAIN)).astype(np.float32)
        gain = _enlarged(coarse, layout.size)
        mixed, confidence = complete(color, weight, layout.mirror, gain.reshape(-1, 3)[layout.texel])
        filled = _pull_push(scatter(layout.texel, mixed, confidence, layout.size), 0.5)
        return np.clip(filled * 255.0 + 0.5, 0, 255).astype(np.uint8), gain

    def _albedo_texture(
        self,
        layout: _Layout,
        color: Float[np.ndarray, "n 3"],
        weight: Float[np.ndarray, " n"],
        appearance: Appearance,
    ) -> UInt8[np.ndarray, "s s 3"]:
        """Returns the albedo in the photograph's detail, sRGB."""
        light = (np.ascontiguousarray(v, np.float32) for v in (appearance.shading, appearance.albedo))
        limits = np.float32(_DARK), np.float32(_BRIGHT)
        points = layout.face, layout.bary
        canvas = unshade(
            color, weight, layout.mirror, self.topology.faces, *points, *light, *limits, _TO_LINEAR, _TO_SRGB,
            layout.texel, layout.size,
        )  # fmt: skip
        return np.clip(_pull_push(canvas, 0.5) * 255.0 + 0.5, 0, 255).astype(np.uint8)

    def _with_vertices(
        self,
        texture: UInt8[np.ndarray, "s s 3"],
        gain: Float[np.ndarray, "s s 3"],
        color: Float[np.ndarray, "v 3"],
        weight: Float[np.ndarray, " v"],
    ) -> FaceColors:
        texel = _texels(self.topology.uv, texture.shape[0])
        mixed, confidence = complete(color, weight, self.topology.mirror_verts, gain.reshape(-1, 3)[texel])
        around = texture.reshape(-1, 3)[texel].astype(np.float32) / 255.0
        colors = confidence[:, None] * mixed + (1 - confidence[:, None]) * around
        source = np.where(weight >= 0.5, VISIBLE, np.where(confidence >= 0.5, MIRRORED, FILLED))
        return FaceColors(texture, np.clip(colors, 0, 1), source.astype(np.uint8), weight)

    def _make_layout(self, size: int) -> _Layout:
        uv, faces = self.topology.uv, self.topology.faces
        flat = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.ones(len(uv))], axis=1).astype(np.float32)
        fragments = rasterize_pixels(flat[None], faces, (size, size))
        face = fragments.pix_to_face.ravel()
        texel = np.flatnonzero(face >= 0)
        face, bary = face[texel].astype(np.int64), fragments.bary_coords.reshape(-1, 3)[texel].astype(np.float32)
        mirror_uv = np.einsum("nk,nkc->nc", bary, uv[self.topology.mirror_verts[faces[face]]])
        position = np.full(size * size, -1, dtype=np.int64)
        position[texel] = np.arange(len(texel))
        row, column = np.divmod(texel, size)
        cell = row * _GAIN_GRID // size * _GAIN_GRID + column * _GAIN_GRID // size
        return _Layout(size, texel, face, bary, position[_texels(mirror_uv, size)], cell)


def _cylinder_uv(mean: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 2"]:
    axis_z = mean[:, 2].max() - 0.6 * np.ptp(mean[:, 0])
    angle = np.arctan2(mean[:, 0], mean[:, 2] - axis_z)
    uv = np.stack([angle, mean[:, 1] / (0.5 * np.ptp(mean[:, 0]))], axis=1)
    low, high = uv.min(axis=0), uv.max(axis=0)
    return 0.01 + 0.98 * (uv - low) / (high - low)


def _texels(uv: Float[np.ndarray, "n 2"], size: int) -> Int[np.ndarray, " n"]:
    """Returns the indices of texels in a flattened square texture."""
    column = np.clip((uv[:, 0] * size).astype(int), 0, size - 1)
    row = np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1)
    return row * size + column


def _enlarged(grid: Float[np.ndarray, "c c 3"], size: int) -> Float[np.ndarray, "s s 3"]:
    """Returns a coarse grid interpolated smoothly to a square of `size` pixels."""
    channels = (np.ascontiguousarray(grid[..., k]) for k in range(3))
    smooth = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(c).resize((size, size), smooth)) for c in channels], axis=-1)


def _pull_push(canvas: Float[np.ndarray, "s s 4"], unknown: float) -> Float[np.ndarray, "s s 3"]:
    """Returns values everywhere from premultiplied values and weights of some places; `unknown` if there are none.

    The image pyramid of Gortler et al. 1996, The Lumigraph, section 3.4: fill from the finest level that knows.
    """
    levels = [canvas]
    while levels[-1].shape[0] > 1:
        levels.append(pull(levels[-1]))
    top = levels.pop()
    filled = top[..., :3] + (1 - top[..., 3:]) * np.float32(unknown)
    while levels:
        filled = push(levels.pop(), filled)
    return filled
