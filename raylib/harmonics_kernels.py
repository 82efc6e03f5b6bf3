"""Spherical harmonics of many directions with a gradient that is fast on the CPU: one kernel each way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from raylib.parallel import KERNEL

_ONE, _TWO = np.float32(1.0), np.float32(2.0)


@njit(**KERNEL)
def _evaluate(directions, table, harmonics):
    """Writes polynomials of (n, 3) vectors: `table` has a row for 1, x, y, z, xy, yz, zx, x^2, y^2, z^2."""
    terms = np.empty(10, np.float32)
    for n in range(directions.shape[0]):
        x, y, z = directions[n, 0], directions[n, 1], directions[n, 2]
        terms[0], terms[1], terms[2], terms[3] = _ONE, x, y, z
        terms[4], terms[5], terms[6] = x * y, y * z, z * x
        terms[7], terms[8], terms[9] = x * x, y * y, z * z
        for k in range(table.shape[1]):
            total = np.float32(0.0)
            for i in range(10):
                total += terms[i] * table[i, k]
            harmonics[n, k] = total


@njit(**KERNEL)
def _differentiate(directions, table, grads, grad_directions):
    """Writes the gradients of the vectors from those of the polynomials."""
    terms = np.empty(10, np.float32)
    for n in range(directions.shape[0]):
        x, y, z = directions[n, 0], directions[n, 1], directions[n, 2]
        for i in range(1, 10):
            total = np.float32(0.0)
            for k in range(table.shape[1]):
                total += grads[n, k] * table[i, k]
            terms[i] = total
        grad_directions[n, 0] = terms[1] + terms[4] * y + terms[6] * z + _TWO * x * terms[7]
        grad_directions[n, 1] = terms[2] + terms[4] * x + terms[5] * z + _TWO * y * terms[8]
        grad_directions[n, 2] = terms[3] + terms[5] * y + terms[6] * x + _TWO * z * terms[9]


class Polynomials(torch.autograd.Function):
    """The kernels above; torch's dozen small operations take longer each than this work as a whole.

    Args:
        directions: (..., 3) vectors in single precision on the CPU.
        table: (10, k) coefficients of the monomials up to order 2; takes no gradient.
    """

    @staticmethod
    def forward(ctx: Any, directions: Tensor, table: Tensor) -> Tensor:
        """Returns the (..., k) polynomials."""
        ctx.scene = directions.detach().reshape(-1, 3).contiguous().numpy(), table.numpy()
        harmonics = torch.empty(*directions.shape[:-1], table.shape[1])
        _evaluate(*ctx.scene, harmonics.view(-1, table.shape[1]).numpy())
        return harmonics

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Returns the gradient of the vectors."""
        directions, table = ctx.scene
        of_directions = torch.empty(*grads[0].shape[:-1], 3)
        of_harmonics = grads[0].reshape(len(directions), table.shape[1]).contiguous().numpy()
        _differentiate(directions, table, of_harmonics, of_directions.view(-1, 3).numpy())
        return of_directions, None
