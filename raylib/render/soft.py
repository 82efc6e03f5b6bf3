"""The renderer for training: soft silhouettes and blending with gradients to shape, colour, light and camera.

One call renders a batch: meshes of one topology, each with its own vertices, albedo, light, camera and background. On
the CPU the fused kernels of `render.kernels.soft` rasterise and blend in one pass; elsewhere, or on request,
PyTorch3D rasterises and the same formula blends its fragments.
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

from raylib.errors import ConfigError
from raylib.geometry.camera import Camera
from raylib.kernels.threads import parts_for, run_parts, thread_count
from raylib.lighting.lights import Light, shade
from raylib.render.composite import over
from raylib.render.interface import choose_backend
from raylib.render.kernels.binning import unusable_face
from raylib.render.kernels.soft import LANES, MIN_BACKGROUND, N_PLANES, even_bands, face_boxes, soft_forward
from raylib.render.kernels.soft_grad import N_GRAD_PLANES, soft_backward
from raylib.render.normals import fast_vertex_normals
from raylib.render.projection import pixel_verts

_REACH = math.log(1 / 1e-4 - 1)
"""A face reaches as far as its coverage is above 1e-4: squared distance over sigma."""

_FACES_WORTH_A_THREAD = 8192
"""See `parts_for`."""


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
    """Blends attributes of vertices and of face corners: (b, v, 3) pixels and depth -> color, share, alpha."""

    @staticmethod
    def forward(
        ctx: Any, verts: Tensor, values: Tensor, face_uv: Tensor, faces: Tensor, settings: SoftSettings
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_images, n_faces = len(verts), len(faces)
        height, width = settings.image_size
        n_channels = values.shape[2] + face_uv.shape[2]
        scene = tuple(t.detach().contiguous().numpy() for t in (verts, values, face_uv, faces))
        threads = thread_count()
        reach2 = np.float32(_REACH * settings.sigma_px2)
        boxes = np.empty((n_images * n_faces, 4), np.int32)
        parts = parts_for(len(boxes), _FACES_WORTH_A_THREAD)
        bad_face = np.full(parts, -1, np.int64)
        run_parts(face_boxes, parts, scene[0], scene[3], np.sqrt(reach2), height, width, boxes, bad_face)
        if bad_face.max() >= 0:
            image, face = divmod(int(bad_face.max()), n_faces)
            raise unusable_face(image, face, scene[0][image, scene[3][face]])
        one_sided = settings.composite == "over"
        softness = (reach2, np.float32(settings.sigma_px2), np.float32(settings.gamma), one_sided)
        z_far = np.float32(settings.z_far)
        bands = even_bands(boxes, n_images * height, threads)
        planes = np.empty((n_images * height, N_PLANES + n_channels, width + LANES), np.float32)
        color = torch.empty(n_images, height, width, n_channels)
        share, alpha = torch.empty(n_images, height, width), torch.empty(n_images, height, width)
        run_parts(
            soft_forward, threads, *scene, boxes, bands, height, width, *softness, z_far, planes,
            color.view(-1, width, n_channels).numpy(), share.view(-1, width).numpy(), alpha.view(-1, width).numpy(),
        )  # fmt: skip
        ctx.scene, ctx.boxes, ctx.bands, ctx.planes = scene, boxes, bands, planes
        ctx.softness, ctx.z_far = softness, z_far
        ctx.set_materialize_grads(False)
        return color, share, alpha

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        planes, (verts, values, _, _) = ctx.planes, ctx.scene
        parts = len(ctx.bands) - 1
        height = len(planes) // len(verts)
        width = planes.shape[2] - LANES
        of_color, of_share, of_alpha = (
            np.empty((0,) * n, np.float32) if g is None else g.contiguous().numpy().reshape(len(planes), *shape)
            for g, n, shape in zip(
                grads, (3, 2, 2), ((width, planes.shape[1] - N_PLANES), (width,), (width,)), strict=True
            )
        )
        grad_planes = np.empty((len(planes), N_GRAD_PLANES + planes.shape[1] - N_PLANES, planes.shape[2]), np.float32)
        grad_verts = np.zeros((parts, *verts.shape), np.float32)
        grad_values = np.zeros((parts, *values.shape), np.float32)
        run_parts(
            soft_backward, parts, *ctx.scene, ctx.boxes, ctx.bands, height, *ctx.softness, ctx.z_far, planes,
            of_color, of_share, of_alpha, grad_planes, grad_verts, grad_values,
        )  # fmt: skip
        totals = [g[0] if parts == 1 else g.sum(0) for g in (grad_verts, grad_values)]
        return torch.from_numpy(totals[0]), torch.from_numpy(totals[1]), None, None, None


def _blend_fragments(
    verts: Tensor, values: Tensor, face_uv: Tensor, faces: Tensor, settings: SoftSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """The same picture from PyTorch3D's fragments: the formula at the top of `render.kernels.soft`, K faces a
    pixel."""
    from raylib.render.pytorch3d_backend import rasterize_pixel_verts

    reach = _REACH * settings.sigma_px2
    fragments = rasterize_pixel_verts(verts, faces, settings.image_size, reach, settings.faces_per_pixel)
    hit = fragments.pix_to_face >= 0
    attributes = torch.cat([values[:, faces], face_uv.expand(len(verts), -1, -1, -1)], dim=-1)
    packed = attributes.flatten(0, 1)
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
    alpha = 1 - (1 - prob).prod(-1)
    return blended, (background / total)[..., 0], alpha


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
            transfer: self-shadow of the vertices (see `raylib.lighting.spherical_harmonics`); without it nothing is
                shadowed.

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
        return self._composite(color, layers["share"], layers["alpha"], background)

    def blend(
        self, verts: Float[Tensor, "b v 3"], camera: Camera, attributes: Float[Tensor, "b v c"]
    ) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b h w"]]:
        """Returns attributes of the vertices blended over the pixels, zero where no face reaches, and coverage."""
        layers = self._blend(verts, camera, {"attributes": attributes}, with_uv=False)
        return layers["attributes"], layers["alpha"]

    def _blend(
        self, verts: Tensor, camera: Camera, parts: dict[str, Tensor], with_uv: bool = True
    ) -> dict[str, Tensor]:
        """Blends named attributes of the vertices and, where there are any, texture coordinates of the corners."""
        names, sizes = list(parts), [part.shape[-1] for part in parts.values()]
        values = torch.cat(list(parts.values()), dim=-1) if parts else verts[..., :0]
        if self.face_uv is None or not with_uv:
            face_uv = verts.new_empty(len(self.faces), 3, 0)
        else:
            names, sizes, face_uv = [*names, "uv"], [*sizes, 2], self.face_uv
        fused = choose_backend(verts.device, self.settings.backend) == "numba"
        blend = _SoftBlend.apply if fused else _blend_fragments
        color, share, alpha = blend(pixel_verts(verts, camera), values, face_uv, self.faces, self.settings)
        layers = dict(zip(names, color.split(sizes, dim=-1), strict=True)) if len(sizes) > 1 else {names[0]: color}
        layers |= {"share": share[..., None], "alpha": alpha}
        # Attributes of the surface alone: the background's share weighs as little as 1e-10, save where nothing is.
        of_surface = [name for name in ("normals", "points", "transfer", "uv") if name in layers]
        if of_surface:
            covered = (1 - layers["share"]).clamp(min=1e-6)
            layers |= {name: layers[name] / covered for name in of_surface}
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
        if self.settings.composite == "softmax":
            return RenderedImage(color if background is None else color + share * background, alpha)
        return RenderedImage(over(color, share, alpha, background), alpha)

    def with_settings(self, **changes: Any) -> SoftRenderer:
        """Returns a renderer of the same topology with some settings changed."""
        return SoftRenderer(self.faces, replace(self.settings, **changes), self.face_uv)
