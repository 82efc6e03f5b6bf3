"""Lights and how they shade a surface: spherical harmonics, points and directions.

All light lives in the space of the vertices and normals it is used with, which is canonical face space for faces.
Shading is irradiance over pi: what a white matte surface reflects. Color = albedo * shading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from raylib.lighting.spherical_harmonics import evaluate_polynomials, harmonic_polynomials


@runtime_checkable
class Light(Protocol):
    """Anything that lights a surface."""

    def diffuse(
        self,
        points: Float[Tensor, "b n 3"],
        normals: Float[Tensor, "b n 3"],
        transfer: Float[Tensor, "b n 9"] | None = None,
    ) -> Float[Tensor, "b n 3"]:
        """Returns the shading of matte white points: multiply by the albedo."""

    def specular(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], eye: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b n 3"] | None:
        """Returns the highlight to add, or None where the light makes none."""


@dataclass(frozen=True)
class SphericalHarmonicLight:
    """Smooth light from everywhere.

    Attributes:
        coefficients: radiance, nine harmonics a channel.
    """

    coefficients: Float[Tensor, "b 9 3"]

    def diffuse(
        self,
        points: Float[Tensor, "b n 3"],
        normals: Float[Tensor, "b n 3"],
        transfer: Float[Tensor, "b n 9"] | None = None,
    ) -> Float[Tensor, "b n 3"]:
        """Returns the shading of matte white points, with self-shadow where `transfer` carries it."""
        if transfer is not None:
            return transfer @ self.coefficients
        # Under one light the nine harmonics are three polynomials, a channel each.
        table = harmonic_polynomials(normals.dtype, normals.device, True)
        return evaluate_polynomials(normals, (table @ self.coefficients).expand(len(normals), -1, -1))

    def specular(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], eye: Float[Tensor, "b 3"]
    ) -> None:
        """Returns None: nine harmonics are too smooth for a highlight."""
        return


@dataclass(frozen=True)
class PhongLight:
    """A light at a point or from a direction, with the Phong model (Phong 1975) as PyTorch3D evaluates it.

    Color = albedo * (ambient + diffuse max(n.l, 0)) + specular max(v.r, 0)^shininess, the last where n.l > 0.

    Attributes:
        position: of the light, or the direction towards it where `directional`.
        ambient: light from everywhere.
        diffuse_color: light on matte surfaces.
        specular_color: light in highlights.
        directional: whether the light is infinitely far.
        shininess: exponent of the highlight.
    """

    position: Float[Tensor, "b 3"]
    ambient: Float[Tensor, "b 3"]
    diffuse_color: Float[Tensor, "b 3"]
    specular_color: Float[Tensor, "b 3"]
    directional: bool = False
    shininess: float = 64.0

    def towards(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Returns unit vectors from points to the light."""
        towards = self.position[:, None].expand_as(points) if self.directional else self.position[:, None] - points
        return normalize(towards, dim=-1)

    def diffuse(
        self,
        points: Float[Tensor, "b n 3"],
        normals: Float[Tensor, "b n 3"],
        transfer: Float[Tensor, "b n 9"] | None = None,
    ) -> Float[Tensor, "b n 3"]:
        """Returns the shading of matte white points; `transfer` does not apply to light from one place."""
        cosine = torch.relu((normals * self.towards(points)).sum(-1, keepdim=True))
        return self.ambient[:, None] + self.diffuse_color[:, None] * cosine

    def specular(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], eye: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b n 3"]:
        """Returns the highlight seen from `eye`."""
        towards = self.towards(points)
        cosine = (normals * towards).sum(-1, keepdim=True)
        mirrored = 2 * cosine * normals - towards
        view = normalize(eye[:, None] - points, dim=-1)
        alignment = torch.relu((view * mirrored).sum(-1, keepdim=True)) * (cosine > 0)
        return self.specular_color[:, None] * alignment**self.shininess


def shade(
    light: Light,
    albedo: Float[Tensor, "b n 3"],
    points: Float[Tensor, "b n 3"],
    normals: Float[Tensor, "b n 3"],
    eye: Float[Tensor, "b 3"],
    transfer: Float[Tensor, "b n 9"] | None = None,
) -> Float[Tensor, "b n 3"]:
    """Returns the colors of lit points.

    Args:
        light: the light.
        albedo: share of light that each point reflects, per channel.
        points: positions, for lights at a finite distance.
        normals: unit normals.
        eye: where the camera stands, for highlights.
        transfer: transfer coefficients with self-shadow, for light given in spherical harmonics.
    """
    color = albedo * light.diffuse(points, normals, transfer)
    highlight = light.specular(points, normals, eye)
    return color if highlight is None else color + highlight
