"""Polynomials of many unit vectors with a gradient that is fast on the CPU: one kernel each way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from raylib.kernels.threads import KERNEL, parts_for_images, run_parts

_ONE, _TWO = np.float32(1.0), np.float32(2.0)


@njit(**KERNEL)
def _evaluate(part, parts, directions, tables, values):
    """Writes polynomials of (g, n, 3) vectors, whose coefficients are in `tables` (g, 10, k)."""
    terms = np.empty(10, np.float32)
    for g in range(part, directions.shape[0], parts):
        for n in range(directions.shape[1]):
            x, y, z = directions[g, n, 0], directions[g, n, 1], directions[g, n, 2]
            terms[0], terms[1], terms[2], terms[3] = _ONE, x, y, z
            terms[4], terms[5], terms[6] = x * y, y * z, z * x
            terms[7], terms[8], terms[9] = x * x, y * y, z * z
            for k in range(tables.shape[2]):
                total = np.float32(0.0)
                for i in range(10):
                    total += terms[i] * tables[g, i, k]
                values[g, n, k] = total


@njit(**KERNEL)
def _differentiate(part, parts, directions, tables, grads, of_directions, of_tables):
    """Writes the gradients of the vectors and adds those of the tables, unless they have no size."""
    terms = np.empty(10, np.float32)
    for g in range(part, directions.shape[0], parts):
        for n in range(directions.shape[1]):
            x, y, z = directions[g, n, 0], directions[g, n, 1], directions[g, n, 2]
            for i in range(1, 10):
                total = np.float32(0.0)
                for k in range(tables.shape[2]):
                    total += grads[g, n, k] * tables[g, i, k]
                terms[i] = total
            of_directions[g, n, 0] = terms[1] + terms[4] * y + terms[6] * z + _TWO * x * terms[7]
            of_directions[g, n, 1] = terms[2] + terms[4] * x + terms[5] * z + _TWO * y * terms[8]
            of_directions[g, n, 2] = terms[3] + terms[5] * y + terms[6] * x + _TWO * z * terms[9]
            if of_tables.shape[0] == 0:
                continue
            for k in range(tables.shape[2]):
                d = grads[g, n, k]
                of_tables[g, 0, k] += d
                of_tables[g, 1, k] += d * x
                of_tables[g, 2, k] += d * y
                of_tables[g, 3, k] += d * z
                of_tables[g, 4, k] += d * (x * y)
                of_tables[g, 5, k] += d * (y * z)
                of_tables[g, 6, k] += d * (z * x)
                of_tables[g, 7, k] += d * (x * x)
                of_tables[g, 8, k] += d * (y * y)
                of_tables[g, 9, k] += d * (z * z)


class Polynomials(torch.autograd.Function):
    """The kernels above; torch's dozen small operations take longer each than this work as a whole.

    Args:
        directions: (g, n, 3) vectors in single precision on the CPU.
        tables: (g, 10, k) coefficients for each group: a row for 1, x, y, z, xy, yz, zx, x^2, y^2, z^2.
    """

    @staticmethod
    def forward(ctx: Any, directions: Tensor, tables: Tensor) -> Tensor:
        """Returns the (g, n, k) polynomials."""
        ctx.scene = directions.detach().contiguous().numpy(), tables.detach().contiguous().numpy()
        values = np.empty((*directions.shape[:2], tables.shape[2]), np.float32)
        run_parts(_evaluate, parts_for_images(*directions.shape[:2]), *ctx.scene, values)
        return torch.from_numpy(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the gradients of the vectors and of the tables."""
        directions, tables = ctx.scene
        of_directions = np.empty(directions.shape, np.float32)
        wanted = ctx.needs_input_grad[1]
        # Thousands of vectors are added up: doubles, so that rounding does not grow with them.
        of_tables = np.zeros(tables.shape if wanted else (0, 10, 1), np.float64)
        run_parts(
            _differentiate, parts_for_images(*directions.shape[:2]), directions, tables,
            grads[0].contiguous().numpy(), of_directions, of_tables,
        )  # fmt: skip
        return torch.from_numpy(of_directions), torch.from_numpy(of_tables.astype(np.float32)) if wanted else None
