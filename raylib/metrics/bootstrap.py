"""Bootstrap confidence intervals over images or faces, and how reports show them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int64


def bootstrap_draws(items: int, resamples: int, seed: int) -> Int64[np.ndarray, "r n"]:
    """Returns how often each item is drawn with replacement in each resample (the bootstrap; Efron 1979)."""
    return np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=resamples)


def measure(value: float, samples: Float[np.ndarray, " r"]) -> dict[str, Any]:
    """Returns a figure with its 95 % interval from bootstrap samples; None (JSON's null) where it is undefined."""
    defined = samples[~np.isnan(samples)]
    interval = np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else None
    return {"value": None if math.isnan(value) else float(value), "ci95": interval}


def text(figure: dict[str, Any], digits: int = 3) -> str:
    """Returns the figure's value, a dash where it is undefined."""
    return "-" if figure["value"] is None else f"{figure['value']:.{digits}f}"


def text_interval(figure: dict[str, Any], digits: int = 3) -> str:
    """Returns the ends of the figure's interval, a dash where it is undefined."""
    return "-" if figure["ci95"] is None else " to ".join(f"{value:.{digits}f}" for value in figure["ci95"])
