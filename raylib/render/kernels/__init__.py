"""Numba kernels of the rasteriser and the soft renderer."""
