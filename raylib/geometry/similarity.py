"""Similarity transforms and rigid motions between sets of corresponding points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray

Array = NDArray[Any]


def similarity(source: Array, target: Array) -> tuple[float, Array, Array]:
    """Returns scale, rotation and translation with least squared error `scale * R @ source + T - target`.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991.
    """
    mu_s, mu_t = source.mean(0), target.mean(0)
    s, t = source - mu_s, target - mu_t
    u, d, vt = np.linalg.svd(t.T @ s)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    R = (u * sign) @ vt
    scale = float((d * sign).sum() / (s**2).sum())
    return scale, R, mu_t - scale * R @ mu_s


@dataclass(frozen=True)
class Alignment:
    """A similarity `scale * R @ x + T`.

    Attributes:
        scale: factor.
        R: rotation.
        T: translation.
    """

    scale: float
    R: Float[ndarray, "3 3"]
    T: Float[ndarray, " 3"]

    def apply(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Returns the points moved."""
        return self.scale * points @ self.R.T + self.T

    def undo(self, points: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        """Returns the points moved back."""
        return (points - self.T) @ self.R / self.scale

    @staticmethod
    def identity() -> Alignment:
        """Returns the motion that moves nothing."""
        return Alignment(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def of_points(source: Float[ndarray, "n 3"], target: Float[ndarray, "n 3"], with_scale: bool = True) -> Alignment:
        """Returns the motion with least squared error from `source` to `target`, whose rows correspond."""
        scale, R, T = similarity(source, target)
        return Alignment(scale, R, T) if with_scale else Alignment(1.0, R, target.mean(0) - R @ source.mean(0))
