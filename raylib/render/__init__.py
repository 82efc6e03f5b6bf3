"""Rendering behind one interface: CPU kernels of our own and PyTorch3D."""

from raylib.render.interface import BACKENDS, Fragments, PixelFragments, choose_backend
from raylib.render.normals import fast_vertex_normals
from raylib.render.rasterizer import rasterize, rasterize_face_verts, rasterize_pixels
from raylib.render.soft import RenderedImage, SoftRenderer, SoftSettings

__all__ = [
    "BACKENDS",
    "Fragments",
    "PixelFragments",
    "RenderedImage",
    "SoftRenderer",
    "SoftSettings",
    "choose_backend",
    "fast_vertex_normals",
    "rasterize",
    "rasterize_face_verts",
    "rasterize_pixels",
]
