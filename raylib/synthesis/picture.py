"""Draws one head: texture, shadows, samples, pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from raylib.config import SynthesisSettings
from raylib.geometry.camera import Camera
from raylib.geometry.mesh import vertex_adjacency
from raylib.geometry.visibility import visible_directions
from raylib.lighting.color import srgb_to_linear
from raylib.lighting.spherical_harmonics import lambert_transfer, shadowed_transfer, sphere_directions
from raylib.render import rasterize_pixels
from raylib.segmentation.labels import Label
from raylib.synthesis.atlas import Atlas
from raylib.synthesis.hair import HairMesh, HairStyle, coarse_grid, grid_faces, hair_mesh, under_hair
from raylib.synthesis.head import Head
from raylib.synthesis.light import SceneLight
from raylib.synthesis.shade_kernels import gloss_of_vertices, hair_gloss, resolve, shade_hair, shade_head
from raylib.synthesis.skin import SkinLook, eyeballs, gaze_vectors, paint_texture, to_texture_bytes, vertex_albedo

_LAMP_RAYS = 8
_IN_FRONT_MM = 5.0
"""A landmark counts as hidden where something lies so far in front of it."""
_CAST_ABOVE_MM = -150.0
"""Shadows are cast by and onto what lies above this height of the mean head."""
_CLOTH_MM = 2.5
_LINEAR = srgb_to_linear(torch.arange(256) / 255).numpy()
# Light under the skin spreads red furthest (d'Eon and Luebke 2007, GPU Gems 3, chapter 14).
_SCATTER = np.array([0.55, 0.22, 0.10], np.float32)


class Look(NamedTuple):
    """A person in one picture.

    Attributes:
        skin: the face's surface.
        style: what is on the head.
        clothes: linear RGB.
        neckline: height where cloth begins, millimetres.
        noise_offset: of the noise tiles.
        oily: strength of highlights.
        gaze: yaw and pitch in degrees.
        down: unit vector of gravity in face space.
        photo: albedo of the texels from a photograph, or None for drawn skin.
    """

    skin: SkinLook
    style: HairStyle
    clothes: Float[np.ndarray, " 3"]
    neckline: float
    noise_offset: tuple[int, int]
    oily: float
    gaze: tuple[float, float]
    down: Float[np.ndarray, " 3"]
    photo: Float[np.ndarray, "n 3"] | None = None


class _Samples(NamedTuple):
    """What samples show: light, the part of it that is not matte, label, normal, depth (-1: nothing), face or not."""

    light: Float[np.ndarray, "s s 3"]
    beyond: Float[np.ndarray, "s s 3"]
    label: UInt8[np.ndarray, "s s"]
    normal: Float[np.ndarray, "s s 3"]
    depth: Float[np.ndarray, "s s"]
    on_face: UInt8[np.ndarray, "s s"]

    @staticmethod
    def empty(depth: Float[np.ndarray, "s s"]) -> _Samples:
        s = len(depth)
        light, beyond, normal = (np.zeros((s, s, 3), np.float32) for _ in range(3))
        return _Samples(light, beyond, np.zeros((s, s), np.uint8), normal, depth, np.zeros((s, s), np.uint8))


@dataclass(frozen=True)
class Picture:
    """One picture with its truth; the fields are those of `generator.SyntheticFaces`."""

    clean: Float[np.ndarray, "h w 3"]
    beyond_matte: Float[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    face_pixels: Bool[np.ndarray, "h w"]
    landmarks: Float[np.ndarray, "68 2"]
    landmark_visible: Bool[np.ndarray, " 68"]
    albedo: Float[np.ndarray, "v 3"]
    texture: UInt8[np.ndarray, "s s 3"]
    lamp_visible: Float[np.ndarray, " v"]
    transfer: Float[np.ndarray, "v 9"]
    normals: Float[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]


class PictureMaker:
    """Draws heads of one size.

    Args:
        head: the mesh.
        atlas: of the texture.
        face_label: label of each of the face's triangles.
        settings: size, samples, directions, gloss.
    """

    def __init__(self, head: Head, atlas: Atlas, face_label: NDArray[np.uint8], settings: SynthesisSettings):
        self.head, self.atlas, self.settings = head, atlas, settings
        rest = np.full(len(head.faces) - len(face_label), Label.SKIN, np.uint8)
        self._label = np.concatenate([face_label, rest])
        assert head.prior.uv is not None and head.prior.regions is not None
        self._uv = np.ascontiguousarray(head.prior.uv.numpy())
        self._faces = np.ascontiguousarray(head.faces)
        self._directions = sphere_directions(settings.shadow_directions).numpy()
        self._spread = _spreading(torch.from_numpy(head.faces), len(head.mean))
        self._cast = np.flatnonzero(head.mean[:, 1] > _CAST_ABOVE_MM)
        number = np.full(len(head.mean), -1)
        number[self._cast] = np.arange(len(self._cast))
        self._cast_faces = number[head.faces][(number[head.faces] >= 0).all(1)]
        eye = head.prior.regions.numpy() == 2
        self._not_eye = np.ones(len(head.mean), np.float32)
        self._not_eye[: len(eye)][eye] = 0.0

    def __call__(
        self,
        verts: Float[np.ndarray, "v 3"],
        camera: Camera,
        light: SceneLight,
        look: Look,
        background: Float[np.ndarray, "h w 3"],
    ) -> Picture:
        """Returns the picture of a head before a background."""
        head, n = self.head, self.head.n_face_verts
        normals = head.normals(verts)
        texture = to_texture_bytes(
            paint_texture(head, self.atlas, look.skin, verts, gaze_vectors(*look.gaze), look.noise_offset, look.photo)
        )
        painted = np.concatenate([_LINEAR[texture[..., :3]], texture[..., 3:].astype(np.float32) / 255], axis=2)
        albedo_face = vertex_albedo(self.atlas, painted)
        cloth = _cloth(verts, n, look)
        verts = verts + normals * np.clip(cloth + 0.5, 0, _CLOTH_MM)[:, None]
        shell = hair_mesh(look.style, verts, look.down)

        transfer, lamp_visible = self._shadows(verts, normals, shell, light)
        count = len(verts)
        all_normals = normals if shell is None else np.concatenate([normals, shell.normals])
        cosine = np.maximum(all_normals @ light.lamp_direction, 0) * lamp_visible
        matte = np.maximum(transfer @ light.sh, 0) + cosine[:, None] * light.lamp_color
        matte = np.ascontiguousarray(matte, dtype=np.float32)
        albedo = self._albedo(albedo_face, look)
        cloth_color = np.array(look.style.color if look.style.kind == "scarf" else look.clothes, np.float32)

        eye_point = (-camera.R[0].T @ camera.T[0]).numpy()
        if self.settings.gloss:
            scatter = (self._spread @ matte[:count] - matte[:count]) * _SCATTER
            scatter *= (self._not_eye * (cloth < 0))[:, None]
            gloss = self._gloss(verts, normals, eye_point, light, matte, lamp_visible, look)
        else:
            scatter, gloss = np.zeros_like(matte[:count]), np.zeros_like(matte[:count])

        s = self.settings.size_px * self.settings.supersampling
        sample = self._samples(verts, camera)
        front = rasterize_pixels(sample[None], self._faces, (s, s))
        pix, bary, depth = front.pix_to_face[0], front.bary_coords[0], front.zbuf[0].copy()
        samples = _Samples.empty(depth)
        eyes = eyeballs(head, verts)
        shade_head(
            pix, bary, self._faces, head.n_face_faces, verts, normals, self._uv, painted, albedo, cloth, cloth_color,
            self._label, matte[:count], scatter, gloss, eyes, eye_point, light.gloss_directions, light.gloss_colors,
            light.gloss_spread,
            self.settings.gloss, samples.light, samples.beyond, samples.label, samples.normal, samples.on_face,
        )  # fmt: skip
        if shell is not None:
            self._hair(shell, camera, light, look, matte[count:], lamp_visible[count:], eye_point, samples)
        return self._resolved(
            verts, camera, background, samples,
            albedo=albedo_face, texture=texture[..., :3], lamp_visible=lamp_visible[:n], transfer=transfer[:n],
        )  # fmt: skip

    def _samples(self, verts: Float[np.ndarray, "v 3"], camera: Camera) -> Float[np.ndarray, "v 3"]:
        """Returns x and y of vertices in samples, and their depth."""
        R, T = camera.R[0].numpy(), camera.T[0].numpy()
        p = verts @ R.T + T
        z = np.maximum(p[:, 2:], 1e-3)
        xy = p[:, :2] / z * float(camera.focal_px[0]) + camera.principal_px[0].numpy()
        return np.concatenate([xy * self.settings.supersampling, p[:, 2:]], axis=1).astype(np.float32)

    def _shadows(
        self,
        verts: Float[np.ndarray, "v 3"],
        normals: Float[np.ndarray, "v 3"],
        shell: HairMesh | None,
        light: SceneLight,
    ) -> tuple[Float[np.ndarray, "n 9"], Float[np.ndarray, " n"]]:
        """Returns transfer coefficients and the visible share of the lamp for head and hair."""
        count, below = len(verts), normals
        verts, normals, faces = verts[self._cast], normals[self._cast], self._cast_faces
        if shell is not None:
            keep, shell_faces, fine = coarse_grid()
            faces = np.concatenate([faces, shell_faces + len(verts)])
            verts = np.concatenate([verts, shell.verts[keep]])
            normals = np.concatenate([normals, shell.normals[keep]])
        has_lamp = bool((light.lamp_color > 0).any())
        directions = self._directions
        if has_lamp:
            directions = np.concatenate([directions, _cone(light.lamp_direction, light.lamp_radius)])
        points, ups, rays = (
            torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (verts, normals, directions)
        )
        seen = visible_directions(points[None], ups[None], torch.from_numpy(faces), rays)
        sphere = len(self._directions)
        transfer = shadowed_transfer(ups[None], seen[..., :sphere], rays[:sphere])[0].numpy()
        lamp = seen[0, :, sphere:].float().mean(1).numpy() if has_lamp else np.zeros(len(verts), np.float32)
        values = np.concatenate([transfer, lamp[:, None]], axis=1)
        # What lies below sees everything; nearly all of it is cloth.
        head = np.concatenate(
            [lambert_transfer(torch.from_numpy(below)).numpy(), np.full((count, 1), has_lamp)], axis=1
        )
        head[self._cast] = values[: len(self._cast)]
        self.head.carry_under(head)
        values = values[len(self._cast) :] if shell is None else fine @ values[len(self._cast) :]
        values = np.concatenate([head, values]).astype(np.float32)
        return values[:, :9], values[:, 9]

    def _gloss(
        self,
        verts: Float[np.ndarray, "v 3"],
        normals: Float[np.ndarray, "v 3"],
        eye_point: Float[np.ndarray, " 3"],
        light: SceneLight,
        matte: Float[np.ndarray, "n 3"],
        lamp_visible: Float[np.ndarray, " n"],
        look: Look,
    ) -> Float[np.ndarray, "v 3"]:
        n = len(verts)
        colors = np.repeat(light.gloss_colors[None], n, axis=0)
        if (light.lamp_color > 0).any():
            colors[:, 0] *= lamp_visible[:n, None]
        # Nose, forehead and lips are smoother and oilier than cheeks.
        x, y = self.head.mean[:, 0], self.head.mean[:, 1]
        zone = np.exp(-0.5 * ((x / 16) ** 2 + ((y + 25) / 14) ** 2)) + np.exp(
            -0.5 * ((x / 32) ** 2 + ((y - 42) / 16) ** 2)
        )
        rough = (0.30 - 0.07 * np.clip(zone, 0, 1)).astype(np.float32)
        strength = (look.oily * (0.7 + 0.6 * np.clip(zone, 0, 1)) * self._not_eye).astype(np.float32)
        out = np.empty((n, 3), np.float32)
        gloss_of_vertices(
            normals, verts, eye_point, light.gloss_directions, np.ascontiguousarray(colors), light.gloss_spread,
            matte[:n], rough, strength, out,
        )  # fmt: skip
        return out

    def _albedo(self, face: Float[np.ndarray, "v 3"], look: Look) -> Float[np.ndarray, "v 3"]:
        """Returns the colours of all vertices: bare skin like the face's edge, hair's colour under hair."""
        out = np.empty((len(self.head.mean), 3), np.float32)
        n = len(face)
        out[:n] = face
        skin = face[self.head.rim].mean(0)
        rest = self.head.mean[n:]
        ears = np.exp(-0.5 * ((np.abs(rest[:, 0]) - 84) / 6) ** 2) * (np.abs(rest[:, 1] + 8) < 40)
        out[n:] = skin * (1 + ears[:, None] * np.array([0.06, -0.10, -0.10]))
        if look.style.is_hair:
            share = under_hair(look.style, self.head)[n:, None]
            out[n:] = out[n:] * (1 - share) + share * np.array(look.style.color)
        return out

    def _hair(
        self,
        shell: HairMesh,
        camera: Camera,
        light: SceneLight,
        look: Look,
        matte: Float[np.ndarray, "n 3"],
        lamp_visible: Float[np.ndarray, " n"],
        eye_point: Float[np.ndarray, " 3"],
        samples: _Samples,
    ) -> None:
        faces = grid_faces()
        side = len(samples.depth)
        front = rasterize_pixels(self._samples(shell.verts, camera)[None], faces, (side, side))
        gloss = np.zeros((len(shell.verts), 3), np.float32)
        style = look.style
        if style.is_hair and self.settings.gloss:
            colors = np.repeat(light.gloss_colors[None], len(gloss), axis=0)
            if (light.lamp_color > 0).any():
                colors[:, 0] *= lamp_visible[:, None]
            hair_gloss(
                shell.verts, shell.tangents, eye_point, light.gloss_directions, np.ascontiguousarray(colors),
                light.gloss_spread, np.array(style.color, np.float32), gloss,
            )  # fmt: skip
            gloss *= (matte.mean(1, keepdims=True) / (matte.mean() + 1e-3)).clip(0, 1.5)
        shade_hair(
            front.pix_to_face[0], front.bary_coords[0], front.zbuf[0], faces, shell.normals, shell.strand, shell.edge,
            np.ascontiguousarray(matte), gloss, np.array(style.color, np.float32), style.is_hair,
            np.float32(style.curl), np.float32(style.fray), self.atlas.noise,
            np.array(look.noise_offset) % self.atlas.side, *samples,
        )  # fmt: skip

    def _resolved(
        self,
        verts: Float[np.ndarray, "v 3"],
        camera: Camera,
        background: Float[np.ndarray, "h w 3"],
        samples: _Samples,
        **truth: NDArray[np.floating] | NDArray[np.uint8],
    ) -> Picture:
        size, n = self.settings.size_px, self.settings.supersampling
        clean, more = np.empty((size, size, 3), np.float32), np.empty((size, size, 3), np.float32)
        labels, face = np.empty((size, size), np.uint8), np.empty((size, size), np.bool_)
        normals, distance = np.empty((size, size, 3), np.float32), np.empty((size, size), np.float32)
        resolve(
            *samples, np.ascontiguousarray(background, np.float32), n, clean, more, labels, normals, distance, face,
        )  # fmt: skip
        marks = self._samples(verts[self.head.prior.landmark_verts.numpy()], camera)
        column, row = (marks[:, k].astype(int) for k in (0, 1))
        inside = (marks[:, 0] >= 0) & (marks[:, 1] >= 0) & (column < size * n) & (row < size * n)
        visible = np.zeros(68, bool)
        depth = samples.depth
        visible[inside] = marks[inside, 2] <= depth[row[inside], column[inside]] + _IN_FRONT_MM
        # Just beyond the outline the picture shows what is behind the head.
        behind = np.zeros(68, bool)
        behind[inside] = depth[row[inside], column[inside]] < 0
        return Picture(
            clean=clean, beyond_matte=more, labels=labels, face_pixels=face, landmarks=marks[:, :2] / np.float32(n),
            landmark_visible=visible | behind, normals=normals, depth=distance, **truth,
        )  # fmt: skip


def _cloth(verts: Float[np.ndarray, "v 3"], n_face: int, look: Look) -> Float[np.ndarray, " v"]:
    """Returns how far each vertex of neck and shoulders lies below the neckline, millimetres."""
    line = max(look.neckline, -112.0) if look.style.kind == "scarf" else look.neckline
    out = (line - verts[:, 1] - 0.25 * (verts[:, 2] + 80.0)).astype(np.float32)
    out[:n_face] = -99
    return out


def _cone(axis: Float[np.ndarray, " 3"], radius: float) -> Float[np.ndarray, "r 3"]:
    """Returns directions spread evenly over a disc of angular `radius` around `axis`."""
    k = np.arange(_LAMP_RAYS) + 0.5
    r, angle = radius * np.sqrt(k / _LAMP_RAYS), k * np.pi * (3 - np.sqrt(5))
    helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.9 else np.array([0, 1.0, 0])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    w = np.cross(axis, u)
    out = axis + np.tan(r)[:, None] * (np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * w)
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


def _spreading(faces: Int[torch.Tensor, "f 3"], n: int) -> csr_matrix:
    """Returns the matrix that averages each vertex with its neighbours, twice."""
    adjacency = vertex_adjacency(faces, n)
    crow, col = adjacency.crow_indices().numpy(), adjacency.col_indices().numpy()
    once = csr_matrix((np.ones(len(col), np.float32), col, crow), shape=(n, n))
    degree = np.asarray(once.sum(1)).ravel()
    step = csr_matrix(once.multiply(0.6 / np.maximum(degree, 1)[:, None])) + csr_matrix(
        (np.full(n, 0.4, np.float32), (np.arange(n), np.arange(n))), shape=(n, n)
    )
    return csr_matrix(step @ step, dtype=np.float32)
