"""Light that a scene may have: surroundings as spherical harmonics, and a lamp or the sun with sharper shadows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from raylib.lighting.color import LUMINANCE
from raylib.lighting.spherical_harmonics import N_SH, sh_basis

_SHARPEST = 4.0
"""Sources in the harmonics are at least so wide: nine of them make sharper ones negative elsewhere."""

KINDS = ("overcast", "sunny", "window", "ceiling", "studio", "side", "coloured", "night", "backlit")
_SHARES = (0.15, 0.18, 0.18, 0.15, 0.16, 0.05, 0.04, 0.05, 0.04)


@dataclass(frozen=True)
class SceneLight:
    """The light on one head, in canonical face space.

    Attributes:
        kind: one of `KINDS`.
        sh: radiance of the surroundings, as `raylib.lighting.spherical_harmonics` wants it.
        lamp_direction: unit vector towards the lamp.
        lamp_color: what a white matte surface that faces the lamp reflects; 0 without a lamp.
        lamp_radius: half the angle under which the lamp is seen, radians.
        gloss_directions: where highlights come from, the lamp first.
        gloss_colors: how bright these are, as `lamp_color`.
        gloss_spread: angular radius of each, radians.
    """

    kind: str
    sh: Float[np.ndarray, "9 3"]
    lamp_direction: Float[np.ndarray, " 3"]
    lamp_color: Float[np.ndarray, " 3"]
    lamp_radius: float
    gloss_directions: Float[np.ndarray, "l 3"]
    gloss_colors: Float[np.ndarray, "l 3"]
    gloss_spread: Float[np.ndarray, " l"]


@dataclass
class _Scene:
    """Light in the world: x to the image's right seen from the camera is +x, y up, z towards the camera."""

    ambient: Float[np.ndarray, " 3"]
    sources: list[tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"], float]]  # direction, colour, concentration
    lamp: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"], float] | None = None


def kelvin(temperature: float) -> Float[np.ndarray, " 3"]:
    """Returns linear RGB, green 1, of a black body seen by a camera balanced for 5500 K: a fit to Planck's law."""
    c2 = 1.4388e-2
    wavelengths = np.array([610e-9, 550e-9, 465e-9])

    def planck(t: float) -> Float[np.ndarray, " 3"]:
        return np.asarray(wavelengths**-5 / (np.exp(c2 / (wavelengths * t)) - 1))

    rgb = planck(temperature) / planck(5500.0)
    return np.asarray(rgb / rgb[1])


def _toward(azimuth_deg: float, elevation_deg: float) -> Float[np.ndarray, " 3"]:
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    return np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])


def _hue(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    h = rng.random() * 6
    rgb = np.clip(np.array([abs(h - 3) - 1, 2 - abs(h - 2), 2 - abs(h - 4)]), 0, 1)
    return np.asarray(rgb * rng.uniform(0.6, 1) + 0.08)


def _draw_scene(rng: np.random.Generator, kind: str) -> _Scene:
    up, ground = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])
    sign = rng.choice([-1.0, 1.0])
    warm, cool = kelvin(rng.uniform(2900, 4500)), kelvin(rng.uniform(6000, 9500))
    if kind == "overcast":
        return _Scene(0.35 * cool, [(up + 0.3 * _toward(rng.uniform(-180, 180), 0), 1.0 * cool, 1.0),
                                    (ground, 0.15 * rng.uniform(0.5, 1.2, 3), 1.0)])  # fmt: skip
    if kind == "sunny":
        sun = _toward(rng.uniform(-130, 130), rng.uniform(15, 75))
        return _Scene(0.25 * cool, [(up, rng.uniform(0.3, 0.6) * cool, 0.8),
                                   (ground, rng.uniform(0.05, 0.3) * warm, 1.0)],
                      (sun, rng.uniform(0.5, 1.5) * kelvin(rng.uniform(4200, 6000)), 0.02))  # fmt: skip
    if kind == "window":
        window = _toward(sign * rng.uniform(20, 95), rng.uniform(-5, 40))
        lamp = (window, rng.uniform(0.3, 0.8) * cool, rng.uniform(0.25, 0.45))
        return _Scene(rng.uniform(0.15, 0.35) * warm, [(window, rng.uniform(0.5, 1.0) * cool, rng.uniform(1.5, 3.0)),
                                    (up, rng.uniform(0.05, 0.3) * warm, 1.0)], lamp)  # fmt: skip
    if kind == "ceiling":
        above = _toward(rng.uniform(-70, 70), rng.uniform(35, 80))
        tint = kelvin(rng.uniform(3000, 6500))
        return _Scene(0.3 * tint, [(above, rng.uniform(0.5, 1.0) * tint, 1.5), (ground, 0.1 * warm, 1.0)],
                      (above, rng.uniform(0.2, 0.6) * tint, rng.uniform(0.1, 0.35)))  # fmt: skip
    if kind == "studio":
        key = _toward(sign * rng.uniform(15, 60), rng.uniform(10, 45))
        fill = _toward(-sign * rng.uniform(20, 70), rng.uniform(-10, 25))
        white = kelvin(rng.uniform(5000, 6200))
        return _Scene(0.12 * white, [(fill, rng.uniform(0.15, 0.6) * white, 2.5),
                                     (_toward(-sign * 150, 35), 0.4 * white, 3.0)],
                      (key, rng.uniform(0.6, 1.1) * white, rng.uniform(0.12, 0.4)))  # fmt: skip
    if kind == "side":
        side = _toward(sign * rng.uniform(55, 115), rng.uniform(-15, 45))
        tint = kelvin(rng.uniform(3200, 7500))
        return _Scene(rng.uniform(0.12, 0.45) * tint, [(-side, rng.uniform(0.05, 0.25) * tint, 1.5)],
                      (side, rng.uniform(0.9, 1.6) * tint, rng.uniform(0.02, 0.25)))  # fmt: skip
    if kind == "coloured":
        one, two = (
            _toward(sign * rng.uniform(20, 100), rng.uniform(-20, 50)),
            _toward(-sign * rng.uniform(20, 120), rng.uniform(-20, 50)),
        )
        return _Scene(0.15 * rng.uniform(0.3, 1, 3), [(two, rng.uniform(0.4, 1.0) * _hue(rng), 2.5)],
                      (one, rng.uniform(0.4, 1.0) * _hue(rng), rng.uniform(0.05, 0.3)))  # fmt: skip
    if kind == "night":
        flash = _toward(rng.uniform(-8, 8), rng.uniform(0, 12))
        return _Scene(0.05 * warm, [(up, 0.1 * warm, 1.0)], (flash, rng.uniform(0.7, 1.2) * kelvin(5800), 0.04))
    behind = _toward(sign * rng.uniform(125, 175), rng.uniform(5, 50))
    return _Scene(0.4 * cool, [(behind, rng.uniform(0.6, 1.2) * warm, 2.5), (_toward(0, 10), 0.25 * cool, 1.0)],
                  (behind, rng.uniform(0.6, 1.4) * kelvin(4800), 0.05))  # fmt: skip


def draw_light(rng: np.random.Generator, to_face: Float[np.ndarray, "3 3"]) -> SceneLight:
    """Returns the light of a random scene.

    Args:
        rng: random numbers.
        to_face: rotation from the world (x to the image's right, y up, z to the camera) to face space.
    """
    kind = str(rng.choice(KINDS, p=_SHARES))
    scene = _draw_scene(rng, kind)
    sh = np.zeros((N_SH, 3))
    sh[0] = scene.ambient * math.sqrt(4 * math.pi)
    directions, colors, spreads = [], [], []
    for direction, color, concentration in scene.sources:
        towards = to_face @ (direction / np.linalg.norm(direction))
        sh += lobe(towards, color, min(concentration, _SHARPEST))
        directions.append(towards)
        colors.append(color)
        spreads.append(1 / math.sqrt(concentration + 1.0))
    lamp_direction, lamp_color, lamp_radius = np.array([0.0, 0.0, 1.0]), np.zeros(3), 0.05
    if scene.lamp is not None:
        direction, lamp_color, lamp_radius = scene.lamp
        lamp_direction = to_face @ direction
        directions.insert(0, lamp_direction)
        colors.insert(0, lamp_color)
        spreads.insert(0, lamp_radius)
    # As a camera does: the face comes out about middle bright, more or less.
    level = _front_level(sh, lamp_direction, lamp_color, to_face)
    exposure = float(np.clip(np.exp(rng.normal(-0.05, 0.25)) / level, 0.4, 3.5))
    return SceneLight(
        kind,
        (sh * exposure).astype(np.float32),
        lamp_direction.astype(np.float32),
        (lamp_color * exposure).astype(np.float32),
        float(lamp_radius),
        np.array(directions, np.float32).reshape(-1, 3),
        (np.array(colors).reshape(-1, 3) * exposure).astype(np.float32),
        np.array(spreads, np.float32),
    )


def lobe(
    towards: Float[np.ndarray, " 3"], color: Float[np.ndarray, " 3"], concentration: float
) -> Float[np.ndarray, "9 3"]:
    """Returns the harmonics of a von Mises-Fisher lobe.

    If all its light came from one direction, a white matte surface that faces it would reflect `color`.
    """
    k = concentration
    first = 1 / math.tanh(k) - 1 / k
    bands = np.repeat([1.0, first, 1 - 3 * first / k], [1, 3, 5])
    basis = sh_basis(torch.tensor(towards, dtype=torch.float32)[None])[0].numpy()
    return np.asarray((basis * bands)[:, None] * color * math.pi)


def _front_level(
    sh: Float[np.ndarray, "9 3"],
    lamp_direction: Float[np.ndarray, " 3"],
    lamp_color: Float[np.ndarray, " 3"],
    to_face: Float[np.ndarray, "3 3"],
) -> float:
    """Returns how bright a white matte hemisphere towards the camera is on average, about."""
    some = np.array([[0, 0.15, 1], [0.6, 0.15, 1], [-0.6, 0.15, 1], [0, 0.75, 1], [0, -0.45, 1]]) @ to_face.T
    normals = some / np.linalg.norm(some, axis=1, keepdims=True)
    lambert = sh_basis(torch.tensor(normals, dtype=torch.float32)).numpy() * np.repeat([1, 2 / 3, 1 / 4], [1, 3, 5])
    shading = lambert @ sh + np.maximum(normals @ lamp_direction, 0)[:, None] * lamp_color
    total = float((shading @ LUMINANCE).mean())
    return max(total, 0.05)
