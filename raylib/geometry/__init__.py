"""Cameras, triangle meshes and what is measured on them."""
