"""Configuration of every job as frozen dataclasses; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from raylib.errors import ConfigError


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class FitSettings:
    """How a linear face model is fitted to 68 landmarks (`fitting`).

    Attributes:
        iterations: Gauss-Newton steps on pose, identity and expression together.
        landmark_sigma_mm: standard deviation of a landmark about the model's vertex, in millimetres on the face.
        contour_sigma_mm: the same along the jaw line, where detectors place landmarks less surely than across it.
        expression_sigma: standard deviation of an expression coefficient before the bounds.
        outlier_sigmas: residuals beyond this many standard deviations count linearly (Huber's loss).
    """

    iterations: int = 6
    landmark_sigma_mm: float = 1.5
    contour_sigma_mm: float = 6.0
    expression_sigma: float = 0.3
    outlier_sigmas: float = 2.5

    def __post_init__(self) -> None:
        _require(self.iterations >= 1, "iterations", self.iterations, "at least 1")
        for name in ("landmark_sigma_mm", "contour_sigma_mm", "expression_sigma", "outlier_sigmas"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
