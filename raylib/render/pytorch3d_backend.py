"""PyTorch3D's side of the border: its renderer on our rasteriser. Imported only by those who use PyTorch3D."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from pytorch3d.renderer import MeshRasterizer as Pytorch3dRasterizer
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.renderer.mesh.rasterizer import Fragments as Pytorch3dFragments
from pytorch3d.structures import Meshes
from torch import Tensor

from raylib.render.interface import Fragments, choose_backend
from raylib.render.rasterizer import rasterize


class MeshRasterizer(Pytorch3dRasterizer):
    """PyTorch3D's `MeshRasterizer`, rasterising on the CPU with our kernels; elsewhere it is PyTorch3D's own.

    Args:
        cameras: PyTorch3D cameras.
        raster_settings: PyTorch3D `RasterizationSettings`.
        backend: "numba" or "pytorch3d"; None chooses by the meshes' device.
    """

    def __init__(self, cameras: Any = None, raster_settings: Any = None, backend: str | None = None):
        super().__init__(cameras, raster_settings)
        self.backend = backend

    def forward(self, meshes_world: Meshes, **kwargs: Any) -> Pytorch3dFragments:
        """Returns the fragments of meshes in world space, with PyTorch3D's rules for settings that are None."""
        if choose_backend(meshes_world.device, self.backend) == "pytorch3d":
            return super().forward(meshes_world, **kwargs)
        settings: Any = kwargs.get("raster_settings", self.raster_settings)
        cameras: Any = kwargs.get("cameras", self.cameras)
        meshes_ndc = self.transform(meshes_world, **kwargs)
        clip, perspective, z_clip = (
            settings.clip_barycentric_coords,
            settings.perspective_correct,
            settings.z_clip_value,
        )
        if clip is None:
            clip = settings.blur_radius > 0.0
        if perspective is None:
            perspective = cameras.is_perspective()
        if z_clip is None and perspective and cameras.get_znear() is not None:
            znear = cameras.get_znear()
            z_clip = (float(znear.min()) if hasattr(znear, "min") else float(znear)) / 2
        return Pytorch3dFragments(
            *rasterize(
                meshes_ndc, settings.image_size, settings.blur_radius, settings.faces_per_pixel,
                perspective_correct=perspective, clip_barycentric_coords=clip,
                cull_backfaces=settings.cull_backfaces, z_clip_value=z_clip,
                cull_to_frustum=settings.cull_to_frustum,
            )
        )  # fmt: skip


def rasterize_pixel_verts(
    verts: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image_size: tuple[int, int],
    blur_radius_px2: float,
    faces_per_pixel: int,
) -> Fragments:
    """Returns PyTorch3D's fragments of vertices in our pixels and depth, with distances in squared pixels.

    Perspective-correct and clipped to the faces, differentiable in the vertices, on any device.

    Args:
        verts: x and y in pixels (see `raylib.geometry.camera`) and depth.
        faces: triangles, the same for every image.
        image_size: height and width in pixels.
        blur_radius_px2: squared distance in pixels up to which a face reaches beyond its edges.
        faces_per_pixel: faces kept per pixel.
    """
    height, width = image_size
    px_per_ndc = min(height, width) / 2  # the shorter axis spans [-1, 1]; both axes run against ours
    center = verts.new_tensor([width / 2, height / 2])
    ndc = torch.cat([(center - verts[..., :2]) / px_per_ndc, verts[..., 2:]], dim=-1)
    meshes = Meshes(ndc, faces.expand(len(verts), -1, -1))
    pix_to_face, zbuf, bary_coords, dists = rasterize_meshes(
        meshes, image_size, blur_radius_px2 / px_per_ndc**2, faces_per_pixel, perspective_correct=True,
        clip_barycentric_coords=True,
    )  # fmt: skip
    return Fragments(pix_to_face, zbuf, bary_coords, dists * px_per_ndc**2)
