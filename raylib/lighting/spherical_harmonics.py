"""Light and how a surface answers it: spherical harmonics, point and directional lights, and self-shadow.

All light lives in the space of the vertices and normals it is used with, which is canonical face space for faces.

Spherical harmonics of order 2 describe the radiance that arrives from a direction by nine coefficients a channel, in
the order (l, m) = (0,0) (1,-1) (1,0) (1,1) (2,-2) (2,-1) (2,0) (2,1) (2,2). Radiance 1 from everywhere is the first
coefficient sqrt(4 pi) alone. A matte surface keeps of the l-th band the factor A_l = pi, 2 pi / 3, pi / 4
(Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", SIGGRAPH 2001), so that nine
numbers are nearly all it sees of any distant light.

Shading is irradiance over pi: what a white matte surface reflects. Color = albedo * shading.

Self-shadow is precomputed radiance transfer (Sloan, Kautz and Snyder, SIGGRAPH 2002): each vertex keeps nine transfer
coefficients, the integrals of visibility times cosine times each harmonic, and its shading is their product with the
light's coefficients. Where nothing is in the way they are A_l / pi times the harmonics of the normal.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raylib.geometry.visibility import visible_directions
from raylib.lighting.kernels import Polynomials

N_SH = 9
"""Number of harmonics up to order 2."""

# The real spherical harmonics as polynomials of a unit vector: a column each, a row for 1, x, y, z, xy, yz, zx, x^2,
# y^2, z^2.
_Y0 = math.sqrt(1 / (4 * math.pi))
_Y1 = math.sqrt(3 / (4 * math.pi))  # y, z, x
_Y2 = math.sqrt(15 / (4 * math.pi))  # xy, yz, xz
_Y20 = math.sqrt(5 / (16 * math.pi))  # 3 z^2 - 1
_Y22 = math.sqrt(15 / (16 * math.pi))  # x^2 - y^2
_POLYNOMIALS = (
    (_Y0, 0, 0, 0, 0, 0, -_Y20, 0, 0),
    (0, 0, 0, _Y1, 0, 0, 0, 0, 0),
    (0, _Y1, 0, 0, 0, 0, 0, 0, 0),
    (0, 0, _Y1, 0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, _Y2, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, _Y2, 0, 0, 0),
    (0, 0, 0, 0, 0, 0, 0, _Y2, 0),
    (0, 0, 0, 0, 0, 0, 0, 0, _Y22),
    (0, 0, 0, 0, 0, 0, 0, 0, -_Y22),
    (0, 0, 0, 0, 0, 0, 3 * _Y20, 0, 0),
)

# A_l / pi of each harmonic.
_LAMBERT = (1.0, 2 / 3, 2 / 3, 2 / 3, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4)


@lru_cache(maxsize=8)
def harmonic_polynomials(dtype: torch.dtype, device: torch.device, lambert: bool) -> Float[Tensor, "10 9"]:
    """The table above as a tensor, which takes longer to make than most of what is done with it."""
    with torch.inference_mode(False):  # a tensor made within could never be trained with
        table = torch.tensor(_POLYNOMIALS, dtype=torch.float64)
        return (table * torch.tensor(_LAMBERT, dtype=torch.float64) if lambert else table).to(device, dtype)


def _harmonics(directions: Float[Tensor, "*n 3"], lambert: bool) -> Float[Tensor, "*n 9"]:
    table = harmonic_polynomials(directions.dtype, directions.device, lambert)
    return evaluate_polynomials(directions.reshape(1, -1, 3), table[None]).reshape(*directions.shape[:-1], N_SH)


def evaluate_polynomials(
    directions: Float[Tensor, "g n 3"], tables: Float[Tensor, "g 10 k"]
) -> Float[Tensor, "g n k"]:
    """Returns polynomials of unit vectors; a table has a row for each monomial, as `_POLYNOMIALS`."""
    if directions.device.type == "cpu" and directions.dtype == tables.dtype == torch.float32:
        return Polynomials.apply(directions, tables)
    one = torch.ones_like(directions[..., :1])
    products = directions * directions.roll(-1, dims=-1)
    monomials = torch.cat([one, directions, products, directions * directions], dim=-1)
    return monomials @ tables


def sh_basis(directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 9"]:
    """Returns the nine real spherical harmonics of unit vectors."""
    return _harmonics(directions, lambert=False)


def lambert_transfer(normals: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 9"]:
    """Returns the transfer coefficients of a matte surface that nothing shadows."""
    return _harmonics(normals, lambert=True)


@lru_cache(maxsize=8)
def sphere_directions(count: int = 256) -> Float[Tensor, "s 3"]:
    """Returns `count` unit vectors spread evenly over the sphere: a Fibonacci spiral."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    angle = i * math.pi * (3 - math.sqrt(5))
    radius = torch.sqrt(1 - z * z)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1).float()


def shadowed_transfer(
    normals: Float[Tensor, "b v 3"], visible: Bool[Tensor, "b v s"], directions: Float[Tensor, "s 3"]
) -> Float[Tensor, "b v 9"]:
    """Returns transfer coefficients of a matte surface under its own shadow, differentiable in the normals.

    What is blocked is summed over the directions and taken off the exact coefficients of the free surface, so that an
    unshadowed vertex carries no error of the sum.

    Args:
        normals: unit normals.
        visible: whether each vertex sees each direction (see `visible_directions`).
        directions: unit vectors, each standing for the same solid angle of the sphere.
    """
    blocked_cosine = torch.relu(normals @ directions.T) * ~visible
    return lambert_transfer(normals) - blocked_cosine @ sh_basis(directions) * (4 / directions.shape[0])


def self_shadow_transfer(
    verts: Float[Tensor, "b v 3"],
    normals: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    n_directions: int = 256,
) -> Float[Tensor, "b v 9"]:
    """Returns transfer coefficients with the mesh's own shadow, differentiable in the normals, not in visibility."""
    directions = sphere_directions(n_directions).to(verts.device)
    return shadowed_transfer(normals, visible_directions(verts, normals, faces, directions), directions)


def rotate_sh(coefficients: Float[Tensor, "b 9 c"], R: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 9 c"]:
    """Returns the coefficients of the light turned by R: what came from d now comes from R d."""
    # A band is closed under rotation, so that its harmonics at enough directions determine the turned coefficients.
    directions = sphere_directions(32).to(R)
    turned = sh_basis(directions @ R) @ coefficients  # radiance from d of the turned light is that from R^T d
    return torch.linalg.pinv(sh_basis(directions)) @ turned
