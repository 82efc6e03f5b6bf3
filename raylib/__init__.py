"""Face photographs to 3D face meshes with physically meaningful appearance, on Ray."""

__version__ = "0.1.0"
