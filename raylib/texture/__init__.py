"""Textures from photographs, and pictures of textured meshes."""
