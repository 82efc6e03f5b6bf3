"""Rendering behind one interface: CPU kernels of our own and PyTorch3D."""

from raylib.render.interface import BACKENDS, Fragments, PixelFragments, choose_backend
from raylib.render.rasterizer import rasterize, rasterize_face_verts, rasterize_pixels

__all__ = [
    "BACKENDS",
    "Fragments",
    "PixelFragments",
    "choose_backend",
    "rasterize",
    "rasterize_face_verts",
    "rasterize_pixels",
]
