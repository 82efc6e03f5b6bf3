"""The renderer for training: soft silhouettes and blending with gradients to shape, colour, light and camera.

One call renders a batch: meshes of one topology, each with its own vertices, albedo, light, camera and background. On
the CPU the fused kernels of `soft_kernels` rasterise and blend in one pass; elsewhere, or on request, PyTorch3D
rasterises and the same formula blends its fragments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from raylib.camera import Camera
from raylib.errors import ConfigError
from raylib.lighting import Light, shade
from raylib.mesh import vertex_normals
from raylib.parallel import run_parts, thread_count
from raylib.render.binning import bin_faces
from raylib.render.interface import choose_backend
from raylib.render.soft_grad_kernels import add_corners, soft_backward
from raylib.render.soft_kernels import MIN_BACKGROUND, soft_forward

_REACH = math.log(1 / 1e-4 - 1)
"""A face reaches as far as its coverage is above 1e-4: squared distance over sigma."""


@dataclass(frozen=True)
class SoftSettings:
    """How soft the picture is and where light is evaluated.

    Attributes:
        image_size: height and width in pixels.
        sigma_px2: width of the silhouettes' coverage, squared pixels; PyTorch3D's usual 1e-4 is 0.41 at 128 pixels.
        gamma: depth over which the weight of a face behind another falls by e, in the unit of the vertices. Well
            below a pixel's depth on a slope it lets the nearest face within reach hide the one under the pixel.
        z_far: depth of the background, in the unit of the vertices.
        composite: "over" mixes the faces' colour with the background by coverage, which is one wherever a face is
            and falls outside the silhouette, so that a loss on colours moves the silhouette; "softmax" is PyTorch3D's
            `softmax_rgb_blend`, where the background shows only where no face reaches and coverage is below one at
            every edge.
        light_at: "vertices" or "pixels"; highlights need pixels.
        backend: "numba" or "pytorch3d"; None chooses by the device.
        faces_per_pixel: faces that the pytorch3d backend blends; the numba backend blends all.
    """

    image_size: tuple[int, int]
    sigma_px2: float = 0.2
    gamma: float = 3.0
    z_far: float = 10_000.0
    composite: str = "over"
    light_at: str = "vertices"
    backend: str | None = None
    faces_per_pixel: int = 50

    def __post_init__(self) -> None:
        if self.composite not in ("over", "softmax"):
            raise ConfigError(f"composite is {self.composite!r}, expected 'over' or 'softmax'")
        if self.light_at not in ("vertices", "pixels"):
            raise ConfigError(f"light_at is {self.light_at!r}, expected 'vertices' or 'pixels'")
        if not (self.sigma_px2 > 0 and self.gamma > 0):
            raise ConfigError(f"sigma_px2, gamma are {self.sigma_px2}, {self.gamma}, expected positive numbers")


@dataclass(frozen=True)
class RenderedImage:
    """A batch of pictures.

    Attributes:
        image: colours.
        alpha: coverage by the mesh, 0 to 1.
    """

    image: Float[Tensor, "b h w 3"]
    alpha: Float[Tensor, "b h w"]


class _SoftBlend(torch.autograd.Function):
    """Blends attributes of face corners: (b, v, 3) pixels and depth -> (b, h, w, C + 2)."""

    @staticmethod
    def forward(ctx: Any, verts: Tensor, attributes: Tensor, faces: Tensor, settings: SoftSettings) -> Tensor:
        n_images, n_faces, n_channels = len(verts), len(faces), attributes.shape[3]
        height, width = settings.image_size
        corners = faces.numpy()
        turned = verts.detach().numpy() * np.array([-1.0, -1.0, 1.0], np.float32)
        face_verts = np.take(turned, corners, axis=1).reshape(n_images * n_faces, 9)
        packed = attributes.detach().contiguous().numpy().reshape(n_images * n_faces, 3 * n_channels)
        columns = -(np.arange(width, dtype=np.float32) + np.float32(0.5))
        rows = -(np.arange(height, dtype=np.float32) + np.float32(0.5))
        first_face = np.arange(n_images, dtype=np.int64) * n_faces
        nearest = face_verts[:, 2::3].min(axis=1).reshape(n_images, n_faces)
        order = (np.argsort(nearest, axis=1, kind="stable") + first_face[:, None]).astype(np.int32).reshape(-1)
        threads = thread_count()
        reach = _REACH * settings.sigma_px2
        counts = np.full(n_images, n_faces, np.int64)
        grid = bin_faces(face_verts, first_face, counts, columns, rows, reach, False, threads, order)
        out = np.empty((n_images, height, width, n_channels + 2), np.float32)
        aux = np.empty((n_images, height, width, 3), np.float32)
        scene = (face_verts, packed, grid.boxes, grid.face_lists, grid.offsets, columns, rows)
        one_sided = settings.composite == "over"
        softness = (np.float32(reach), np.float32(settings.sigma_px2), np.float32(settings.gamma), one_sided)
        tiles = (n_images, grid.tile_columns, grid.tile_rows)
        run_parts(soft_forward, threads, *scene, *softness, np.float32(settings.z_far), *tiles, out, aux)
        ctx.scene, ctx.softness, ctx.tiles, ctx.aux, ctx.corners = scene, softness, tiles, aux, corners
        result = torch.from_numpy(out)
        ctx.save_for_backward(result)
        ctx.shapes = verts.shape, attributes.shape
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (result,) = ctx.saved_tensors
        verts_shape, attributes_shape = ctx.shapes
        face_verts, packed = ctx.scene[:2]
        threads, n_images = thread_count(), ctx.tiles[0]
        by_image = n_images >= threads
        copies = 1 if by_image else threads
        grad_faces = np.zeros((copies, *face_verts.shape), np.float32)
        grad_attributes = np.zeros((copies, *packed.shape), np.float32)
        run_parts(
            soft_backward, threads, *ctx.scene, *ctx.softness, *ctx.tiles, by_image, result.numpy(), ctx.aux,
            grads[0].contiguous().numpy(), grad_faces, grad_attributes,
        )  # fmt: skip
        grad_verts = np.zeros(verts_shape, np.float32)
        add_corners(grad_faces[0] if by_image else grad_faces.sum(0), ctx.corners, n_images, grad_verts)
        grad_verts *= np.array([-1.0, -1.0, 1.0], np.float32)
        total = grad_attributes[0] if by_image else grad_attributes.sum(0)
        return torch.from_numpy(grad_verts), torch.from_numpy(total).view(attributes_shape), None, None


class _GatherCorners(torch.autograd.Function):
    """Takes values of vertices to the corners of faces; torch's own backward of indexing is ten times slower."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, faces: Tensor) -> Tensor:
        ctx.faces, ctx.shape = faces, values.shape
        return torch.from_numpy(np.take(values.detach().numpy(), faces.numpy(), axis=1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n_images, _, n_channels = ctx.shape
        total = np.zeros(ctx.shape, np.float32)
        corners = grads[0].contiguous().numpy().reshape(-1, 3 * n_channels)
        add_corners(corners, ctx.faces.numpy(), n_images, total)
        return torch.from_numpy(total), None


class _SumAtVerts(torch.autograd.Function):
    """Adds values of the corners of faces up at their vertices: the adjoint of `_GatherCorners`."""

    @staticmethod
    def forward(ctx: Any, corners: Tensor, faces: Tensor, n_verts: int) -> Tensor:
        ctx.faces = faces
        n_images, n_channels = corners.shape[0], corners.shape[3]
        total = np.zeros((n_images, n_verts, n_channels), np.float32)
        add_corners(corners.detach().contiguous().numpy().reshape(-1, 3 * n_channels), faces.numpy(), n_images, total)
        return torch.from_numpy(total)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return torch.from_numpy(np.take(grads[0].numpy(), ctx.faces.numpy(), axis=1)), None, None


def fast_vertex_normals(verts: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b v 3"]:
    """Returns the normals of `mesh.vertex_normals`, on the CPU by kernels whose gradient is ten times faster."""
    if verts.device.type != "cpu":
        return vertex_normals(verts, faces)
    a, b, c = _GatherCorners.apply(verts, faces).unbind(2)
    cross = torch.linalg.cross(b - a, c - a)[:, :, None]
    return normalize(_SumAtVerts.apply(cross.expand(-1, -1, 3, -1), faces, verts.shape[1]), dim=2)


def _blend_fragments(verts: Tensor, attributes: Tensor, faces: Tensor, settings: SoftSettings) -> Tensor:
    """The same picture from PyTorch3D's fragments: the formula at the top of `soft_kernels`, K faces a pixel."""
    from raylib.render.pytorch3d_backend import rasterize_pixel_verts

    reach = _REACH * settings.sigma_px2
    fragments = rasterize_pixel_verts(verts, faces, settings.image_size, reach, settings.faces_per_pixel)
    hit = fragments.pix_to_face >= 0
    packed = attributes.reshape(-1, 3, attributes.shape[3])
    corners = packed[fragments.pix_to_face.clamp(min=0)]
    values = (corners * fragments.bary_coords[..., None]).sum(-2) * hit[..., None]
    prob = torch.sigmoid(-fragments.dists / settings.sigma_px2)
    if settings.composite == "over":
        prob = torch.where(fragments.dists < 0, 1.0, 2 * prob)
    prob = prob * hit
    depth = torch.where(hit, fragments.zbuf, settings.z_far)
    nearest = depth.min(-1, keepdim=True).values.clamp(max=settings.z_far)
    weight = prob * torch.exp((nearest - depth) / settings.gamma)
    background = torch.exp((nearest - settings.z_far) / settings.gamma).clamp(min=MIN_BACKGROUND)
    total = weight.sum(-1, keepdim=True) + background
    blended = (weight[..., None] * values).sum(-2) / total
    alpha = 1 - (1 - prob).prod(-1, keepdim=True)
    return torch.cat([blended, background / total, alpha], dim=-1)


class SoftRenderer:
    """Renders batches of meshes of one topology.

    Args:
        faces: triangles, counter-clockwise seen from outside.
        settings: softness, light and backend.
        face_uv: texture coordinates of the corners of each face, (0, 0) at the bottom left; needed for textures.
    """

    def __init__(
        self, faces: Int[Tensor, "f 3"], settings: SoftSettings, face_uv: Float[Tensor, "f 3 2"] | None = None
    ):
        self.faces = faces
        self.settings = settings
        self.face_uv = face_uv

    def __call__(
        self,
        verts: Float[Tensor, "b v 3"],
        camera: Camera,
        light: Light | None = None,
        albedo: Float[Tensor, "b v 3"] | None = None,
        texture: Float[Tensor, "b 3 th tw"] | None = None,
        background: Float[Tensor, ...] | None = None,
        transfer: Float[Tensor, "b v 9"] | None = None,
    ) -> RenderedImage:
        """Returns the pictures, differentiable in everything given.

        Args:
            verts: vertices in the space of camera and light.
            camera: one camera a mesh.
            light: light in the space of the vertices; None shows the albedo as it is.
            albedo: colours of the vertices; this or `texture`.
            texture: picture of the albedo, first row at the top (v = 1).
            background: one colour (3), or a picture (b, h, w, 3) or (h, w, 3); black by default.
            transfer: self-shadow of the vertices (see `raylib.lighting`); without it nothing is shadowed.

        Raises:
            ConfigError: neither or both of `albedo` and `texture` are given, there is no `face_uv` for a texture, or
                the vertices are not single precision.
            RaylibError: a vertex is NaN, or infinite in front of the camera.
        """
        if (albedo is None) == (texture is None):
            raise ConfigError("albedo and texture are both given or both absent, expected one of them")
        if texture is not None and self.face_uv is None:
            raise ConfigError("face_uv is None, expected texture coordinates because a texture is given")
        if verts.dtype != torch.float32:
            raise ConfigError(f"verts is {verts.dtype}, expected torch.float32")
        normals = fast_vertex_normals(verts, self.faces)
        eye = -(camera.R.transpose(1, 2) @ camera.T[:, :, None])[..., 0]
        in_pixels = self.settings.light_at == "pixels"
        parts: dict[str, Tensor] = {}
        if light is None or in_pixels:
            if albedo is not None:
                parts["albedo"] = albedo
            if light is not None:
                parts |= {"normals": normals, "points": verts} | ({} if transfer is None else {"transfer": transfer})
        elif albedo is not None:
            parts["color"] = shade(light, albedo, verts, normals, eye, transfer)
        else:
            parts["shading"] = light.diffuse(verts, normals, transfer)
        layers = self._blend(verts, camera, parts)
        color = self._color(layers, light, texture, eye)
        return self._composite(color, layers["share"], layers["alpha"][..., 0], background)

    def blend(
        self, verts: Float[Tensor, "b v 3"], camera: Camera, attributes: Float[Tensor, "b v c"]
    ) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w"]]:
        """Returns attributes of the vertices blended over the pixels, zero where no face reaches, and coverage."""
        layers = self._blend(verts, camera, {"attributes": attributes}, with_uv=False)
        return layers["attributes"], layers["alpha"][..., 0]

    def _blend(
        self, verts: Tensor, camera: Camera, parts: dict[str, Tensor], with_uv: bool = True
    ) -> dict[str, Tensor]:
        """Blends named attributes of the vertices and, where there are any, texture coordinates of the corners."""
        in_camera = camera.to_camera(verts)
        depth = in_camera[..., 2:]
        # A face with a vertex behind the camera is culled by its depth; its pixels only have to stay finite.
        divisor = torch.where(depth > 1e-6, depth, 1.0)
        pixels = in_camera[..., :2] / divisor * camera.focal_px[:, None, None] + camera.principal_px[:, None]
        pixel_verts = torch.cat([pixels, depth], dim=-1)
        names, sizes = list(parts), [part.shape[-1] for part in parts.values()]
        fused = choose_backend(verts.device, self.settings.backend) == "numba"
        corners = []
        if parts:
            values = torch.cat(list(parts.values()), dim=-1)
            corners.append(_GatherCorners.apply(values, self.faces) if fused else values[:, self.faces])
        if with_uv and self.face_uv is not None:
            names, sizes = [*names, "uv"], [*sizes, 2]
            corners.append(self.face_uv.expand(len(verts), -1, -1, -1))
        attributes = torch.cat(corners, dim=-1)
        blend = _SoftBlend.apply if fused else _blend_fragments
        image = blend(pixel_verts, attributes, self.faces, self.settings)
        layers = dict(zip([*names, "share", "alpha"], image.split([*sizes, 1, 1], dim=-1), strict=True))
        # Attributes of the surface alone: the background's share weighs as little as 1e-10, save where nothing is.
        covered = (1 - layers["share"]).clamp(min=1e-6)
        for name in ("normals", "points", "transfer", "uv"):
            if name in layers:
                layers[name] = layers[name] / covered
        return layers

    def _color(self, layers: dict[str, Tensor], light: Light | None, texture: Tensor | None, eye: Tensor) -> Tensor:
        """Colours of the pixels from the blended layers, weighted like them: zero where no face reaches."""
        if "color" in layers:
            return layers["color"]
        covered = 1 - layers["share"]
        albedo = layers.get("albedo")
        if texture is not None:
            at = torch.stack([layers["uv"][..., 0] * 2 - 1, 1 - layers["uv"][..., 1] * 2], dim=-1)
            sampled = grid_sample(texture, at, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
            albedo = sampled * covered if "shading" not in layers else sampled * layers["shading"]
        assert albedo is not None
        if light is None or "shading" in layers:
            return albedo
        shape = albedo.shape

        def flat(name: str) -> Tensor:
            return layers[name].reshape(shape[0], -1, layers[name].shape[-1])

        normals = normalize(flat("normals"), dim=-1)
        transfer = flat("transfer") if "transfer" in layers else None
        color = shade(light, (albedo / covered.clamp(min=1e-6)).flatten(1, 2), flat("points"), normals, eye, transfer)
        return color.reshape(shape) * covered

    def _composite(self, color: Tensor, share: Tensor, alpha: Tensor, background: Tensor | None) -> RenderedImage:
        behind = color.new_zeros(3) if background is None else background
        if self.settings.composite == "softmax":
            return RenderedImage(color + share * behind, alpha)
        surface = color / (1 - share).clamp(min=1e-6)
        return RenderedImage(alpha[..., None] * surface + (1 - alpha[..., None]) * behind, alpha)

    def with_settings(self, **changes: Any) -> SoftRenderer:
        """Returns a renderer of the same topology with some settings changed."""
        return SoftRenderer(self.faces, replace(self.settings, **changes), self.face_uv)
