"""Synthetic occluders for evaluation: one opaque shape that covers a given share of a face."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, UInt8

from raylib.segmentation.labels import Label, face_mask


def _distance(
    shape: tuple[int, int], centre: tuple[float, float], angle: float, aspect: float, power: float
) -> np.ndarray:
    """Returns how far each pixel is from a centre in a turned, stretched metric; its discs are boxes or ellipses."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dy, dx = y - centre[0], x - centre[1]
    along = np.abs(dx * math.cos(angle) + dy * math.sin(angle)) / aspect
    across = np.abs(dy * math.cos(angle) - dx * math.sin(angle)) * aspect
    return (along**power + across**power) ** (1 / power)


def occluder_mask(
    labels: UInt8[np.ndarray, "h w"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """Returns a random box or ellipse, centred on the face, that covers `share` of the face's pixels."""
    face = face_mask(labels)
    places = np.argwhere(face)
    if share <= 0 or not len(places):
        return np.zeros(labels.shape, bool)
    row, column = places[rng.integers(len(places))]
    distance = _distance(
        labels.shape,
        (float(row), float(column)),
        float(rng.uniform(0, math.pi)),
        float(np.exp(rng.uniform(-0.6, 0.6))),
        float(rng.choice([2.0, 8.0])),
    )
    # The disc that holds the wanted share of the face: its radius is that quantile of the face's distances.
    return distance <= np.quantile(distance[face], share)


def occluder_texture(shape: tuple[int, int], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Returns what an occluder of a size shows: a plain colour, a skin tone, stripes, noise or a gradient."""
    height, width = shape
    kind = rng.integers(5)
    base = rng.uniform(0, 255, 3)
    if kind == 1:
        base = np.array([190.0, 140.0, 115.0]) * rng.uniform(0.35, 1.3)
    picture = np.broadcast_to(base, (height, width, 3)).astype(np.float64)
    if kind <= 1:
        picture = picture + rng.normal(0, 6, (height, width, 1))
    elif kind == 2:
        y, x = np.mgrid[:height, :width]
        wave = np.sin((x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) * rng.uniform(0.1, 0.6))
        picture = np.where(wave[..., None] > 0, picture, rng.uniform(0, 255, 3))
    elif kind == 3:
        picture = rng.uniform(0, 255, (height, width, 3))
    else:
        slope = np.linspace(0, 1, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
        picture = picture * slope + rng.uniform(0, 255, 3) * (1 - slope)
    return np.clip(picture, 0, 255).astype(np.uint8)


def cover_face(
    image: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    share: float,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Returns photograph and labels with `share` of the face covered; the occluder is labelled background."""
    mask = occluder_mask(labels, share, rng)
    texture = occluder_texture(labels.shape, rng)
    return np.where(mask[..., None], texture, image), np.where(mask, np.uint8(Label.BACKGROUND), labels)
