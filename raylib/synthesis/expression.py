"""Expressions that people make: the prior's blendshapes in combinations."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# fmt: off
NAMES = (
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R", "cheekPuff_L",
    "cheekPuff_R", "cheekRaiser_L", "cheekRaiser_R", "cheekSquint_L", "cheekSquint_R", "eyeBlink_L", "eyeBlink_R",
    "eyeLookDown_L", "eyeLookDown_R", "eyeLookIn_L", "eyeLookIn_R", "eyeLookOut_L", "eyeLookOut_R", "eyeLookUp_L",
    "eyeLookUp_R", "eyeSquint_L", "eyeSquint_R", "eyeWide_L", "eyeWide_R", "jawForward", "jawLeft", "jawOpen",
    "jawRight", "mouthClose", "mouthDimple_L", "mouthDimple_R", "mouthFrown_L", "mouthFrown_R", "mouthFunnel",
    "mouthLeft", "mouthLowerDown_L", "mouthLowerDown_R", "mouthPress_L", "mouthPress_R", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmile_L",
    "mouthSmile_R", "mouthStretch_L", "mouthStretch_R", "mouthUpperUp_L", "mouthUpperUp_R", "noseSneer_L",
    "noseSneer_R",
)
# fmt: on
"""Names of the prior's expression modes."""

_COMBINATIONS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.30, {"mouthSmile": 0.55, "cheekSquint": 0.2}),
    (0.34, {"mouthSmile": 0.9, "cheekSquint": 0.4, "mouthUpperUp": 0.35, "jawOpen": 0.12, "eyeSquint": 0.25}),
    (0.08, {"jawOpen": 0.3, "mouthUpperUp": 0.2, "mouthLowerDown": 0.3}),
    (0.08, {"jawOpen": 0.7, "browInnerUp": 0.7, "browOuterUp": 0.7, "eyeWide": 0.6}),
    (0.07, {"browDown": 0.9, "noseSneer": 0.35, "mouthFrown": 0.4, "eyeSquint": 0.3}),
    (0.07, {"mouthFrown": 0.8, "browInnerUp": 0.6, "mouthShrugLower": 0.3}),
    (0.06, {"mouthPucker": 0.8}),
    (0.06, {"mouthFunnel": 0.6, "jawOpen": 0.2}),
    (0.06, {"noseSneer": 0.8, "mouthUpperUp": 0.6, "browDown": 0.5, "eyeSquint": 0.4}),
    (0.06, {"mouthPress": 0.7, "mouthDimple": 0.4}),
    (0.07, {"browOuterUp": 0.8, "browInnerUp": 0.6}),
    (0.04, {"cheekPuff": 0.7}),
    (0.03, {"mouthStretch": 0.6, "jawOpen": 0.15}),
)
"""How often each occurs, and its shapes at full strength; a name without a side stands for both."""


def draw_expression(
    rng: np.random.Generator, share: float, gaze_yaw_deg: float, gaze_pitch_deg: float
) -> Float[np.ndarray, " e"]:
    """Returns coefficients of the prior's blendshapes, 0..1.

    Args:
        rng: random numbers.
        share: of faces that are not neutral.
        gaze_yaw_deg: where the eyes look, since the lids follow; towards the subject's left.
        gaze_pitch_deg: upwards.
    """
    out = np.zeros(len(NAMES))
    if rng.random() < share:
        weights = np.array([w for w, _ in _COMBINATIONS])
        for _ in range(1 + int(rng.random() < 0.3)):
            _, shapes = _COMBINATIONS[rng.choice(len(_COMBINATIONS), p=weights / weights.sum())]
            strength = rng.uniform(0.25, 1.0)
            lopsided = rng.normal(0, 0.08)
            for name, value in shapes.items():
                _add(out, name, value * strength * np.exp(rng.normal(0, 0.15)), lopsided)
        for name in rng.choice(NAMES, 2, replace=False):
            if "eyeLook" not in name and name not in ("mouthClose",):
                out[NAMES.index(name)] += rng.uniform(0, 0.25)
    if rng.random() < 0.05:
        _add(out, "eyeBlink", rng.uniform(0.5, 1), 0.0)
    else:
        _add(out, "eyeBlink", max(0.0, rng.normal(0.05, 0.08)), 0.0)
    _add(out, "eyeLookDown", max(0.0, -gaze_pitch_deg / 30), 0.0)
    _add(out, "eyeLookUp", max(0.0, gaze_pitch_deg / 30), 0.0)
    left = gaze_yaw_deg / 35
    for name, value in (
        ("eyeLookOut_L", left),
        ("eyeLookIn_R", left),
        ("eyeLookIn_L", -left),
        ("eyeLookOut_R", -left),
    ):
        out[NAMES.index(name)] += max(0.0, value)
    return np.clip(out, 0, 1).astype(np.float32)


def _add(out: Float[np.ndarray, " e"], name: str, value: float, lopsided: float) -> None:
    if name in NAMES:
        out[NAMES.index(name)] += value
        return
    out[NAMES.index(name + "_L")] += value * (1 + lopsided)
    out[NAMES.index(name + "_R")] += value * (1 - lopsided)
