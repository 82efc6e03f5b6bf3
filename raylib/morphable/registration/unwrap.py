"""A texture layout for the wrapped template: one chart, mirror symmetric, no triangle turned over."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from raylib.morphable.registration.relax import signed_areas

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MARGIN = 0.01
"""Empty border of the texture."""


def unwrap_half(
    verts: Floats, faces: Ints, start: Floats, on_midline: NDArray[np.bool_], magnify: Floats, iterations: int = 3000
) -> Floats:
    """Returns a flat layout of the left half with little distortion, the midline at x = 0.

    Minimises the symmetric Dirichlet energy of the map from the triangles in space, enlarged by `magnify`; its
    barrier and a step back wherever a triangle would turn over keep it one to one. The outline is free.

    Args:
        verts: positions, millimetres.
        faces: triangles.
        start: a layout without folds.
        on_midline: vertices that stay at x = 0.
        magnify: enlargement at each vertex, 1 for none.
        iterations: number of steps.
    """
    tri = torch.from_numpy(faces)
    a, b, c = verts[faces].transpose(1, 0, 2) * magnify[faces].mean(1)[None, :, None]
    e1, e2 = b - a, c - a
    x1 = np.linalg.norm(e1, axis=1)
    x2 = (e1 * e2).sum(1) / x1
    y2 = np.linalg.norm(np.cross(e1, e2), axis=1) / x1
    area = torch.from_numpy(x1 * y2 / 2)
    rest = np.zeros((len(faces), 2, 2))  # triangles laid flat, one side along x
    rest[:, 0, 0], rest[:, 0, 1], rest[:, 1, 1] = x1, x2, y2
    inverse = torch.from_numpy(np.linalg.inv(rest))
    scale = np.sqrt(float(area.sum()) / (np.abs(signed_areas(start, faces)).sum() / 2))
    flat = start * scale
    flat[on_midline, 0] = 0
    mean, square = np.zeros_like(flat), np.zeros(len(flat))
    spacing = np.sqrt(float(area.mean()))
    for it in range(iterations):
        p = torch.from_numpy(flat).requires_grad_()
        corner = p[tri]
        jacobian = torch.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], dim=2) @ inverse
        det = torch.linalg.det(jacobian)
        norm = (jacobian**2).sum((1, 2))
        energy = (area.sqrt() * norm * (1 + 1 / det**2)).sum()
        (g,) = torch.autograd.grad(energy, p)
        gradient = g.numpy()
        gradient[on_midline, 0] = 0
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.98 * square + 0.02 * (gradient**2).sum(1)
        rate = 0.1 * spacing * 0.02 ** (it / iterations)
        step = -rate * mean / (np.sqrt(square)[:, None] + 1e-12)
        before = flat
        flat = flat + step
        for _ in range(20):
            bad = np.flatnonzero(signed_areas(flat, faces) <= 0)
            if not len(bad):
                break
            back = np.unique(faces[bad])
            flat[back], mean[back] = before[back], 0
        else:
            flat = before
    return flat


def to_unit_square(flat: Floats) -> Floats:
    """Returns a whole layout scaled evenly into the unit square, centred."""
    low, high = flat.min(0), flat.max(0)
    return 0.5 + (flat - (low + high) / 2) * ((1 - 2 * MARGIN) / (high - low).max())
