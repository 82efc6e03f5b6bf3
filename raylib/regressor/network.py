"""The network that corrects a landmark fit from the picture: pose, shape, expression, albedo, light, uncertainty.

It keeps the paper's idea, a convolutional network that moves and colours the vertices of the 2113-vertex hemisphere
with the segmentation as a second picture, and changes how: residual blocks instead of two flat linear layers,
features of the picture sampled where the fitted vertices project, convolutions on the mesh's graph from coarse to
fine, and corrections to a fit instead of a mesh from nothing. All last layers start at zero: an untrained network
returns the landmark fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raylib.errors import ConfigError
from raylib.regressor.lattice import Lattice, enlarge, subdivide

LEVELS = (3, 4, 5)
"""Subdivisions of the levels that graph convolutions run on: 145, 545 and 2113 vertices."""
OFFSET_REACH_MM = 6.0
"""No level moves a vertex further than this along an axis."""


@dataclass(frozen=True)
class FaceInputs:
    """What the network sees of a batch of faces.

    Attributes:
        image: aligned crop, sRGB in 0..1, then one channel a label.
        vertex_at: where the fitted vertices project in the crop, -1..1 from edge to edge.
        vertex_features: what is known at each vertex: colours, normals, positions, labels.
        fit_features: the fit itself: pose, coefficients, landmarks, their residuals, the first light.
    """

    image: Float[Tensor, "b c h w"]
    vertex_at: Float[Tensor, "b v 2"]
    vertex_features: Float[Tensor, "b v f"]
    fit_features: Float[Tensor, "b g"]

    def to(self, device: torch.device | str) -> FaceInputs:
        """Returns the inputs on a device."""
        return FaceInputs(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class FaceCorrections:
    """What the network would change; all zero where it has nothing to say.

    Attributes:
        turn: rotation vector in the crop's camera space, radians.
        shift: of the face in the picture, as a share of the crop's side.
        log_depth: logarithm of the distance's factor.
        identity: in standard deviations.
        expression: in units of the coefficients.
        offsets_mm: of the vertices in canonical space.
        light: of the harmonics' coefficients, in units of the exposure.
        log_albedo: logarithm of the factor on the average albedo.
        log_sigma: logarithm of the factor on the average uncertainty.
    """

    turn: Float[Tensor, "b 3"]
    shift: Float[Tensor, "b 2"]
    log_depth: Float[Tensor, " b"]
    identity: Float[Tensor, "b k"]
    expression: Float[Tensor, "b e"]
    offsets_mm: Float[Tensor, "b v 3"]
    light: Float[Tensor, "b 9 3"]
    log_albedo: Float[Tensor, "b v 3"]
    log_sigma: Float[Tensor, "b v"]


def _norm(channels: int) -> nn.Module:
    # Narrow groups are slow in the backward pass on a CPU: see segmentation/unet.py.
    return nn.GroupNorm(channels // 32 if channels % 32 == 0 else 1, channels)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a direct way."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Returns the block's output."""
        return functional.relu(x + self.body(x))


def _entry(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, _norm(channels), nn.ReLU(inplace=True))


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _zero_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias if layer.bias is not None else layer.weight)
    return layer


class FaceRegressor(nn.Module):
    """Corrections of a landmark fit from the picture, its label map and the fit.

    Args:
        image_channels: of the picture with its label map.
        vertex_channels: of the vertex features.
        fit_channels: of the fit features.
        identity_modes: of the face model.
        expression_modes: of the face model.
        widths: channels of the picture's features at 1/2, 1/4, 1/8 and 1/16 of its size.
        graph_widths: channels on the mesh's levels, coarsest first.
        hidden: width of the fully connected part.
        blocks: residual blocks at each size and level.

    Raises:
        ConfigError: widths do not fit.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        vertex_channels: int,
        fit_channels: int,
        identity_modes: int,
        expression_modes: int,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        graph_widths: tuple[int, ...] = (128, 64, 32),
        hidden: int = 512,
        blocks: int = 1,
    ):
        super().__init__()
        if len(widths) != 4 or len(graph_widths) != len(LEVELS):
            raise ConfigError(f"widths, graph_widths are {widths}, {graph_widths}, expected four and three numbers")
        self.identity_modes, self.expression_modes = identity_modes, expression_modes
        channels = (image_channels, *widths)
        self.trunk = nn.ModuleList(
            nn.Sequential(_entry(a, b, 2), *(Residual(b) for _ in range(blocks)))
            for a, b in zip(channels, widths, strict=False)
        )
        self.lattices = nn.ModuleList(Lattice(level) for level in LEVELS)
        coarse, middle, fine = graph_widths
        # Up the hierarchy: what the vertices know and see, from fine to coarse.
        self.encode = nn.ModuleList(
            [
                _entry(vertex_channels, middle, 2),
                _entry(middle + widths[1], middle),
                _entry(middle + widths[2], coarse),
            ]
        )
        self.coarse = nn.Sequential(*(Residual(coarse) for _ in range(blocks)))
        squeezed = 16
        self.squeeze = nn.Conv2d(coarse, squeezed, 1)
        seen = squeezed * self._lattice(0).num_verts + widths[3] + fit_channels
        self.fuse = nn.Sequential(nn.Linear(seen, hidden), nn.LayerNorm(hidden), nn.SiLU())
        self.fuse_residual = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU())
        self.coefficient_head = _zero_linear(hidden, 6 + identity_modes + expression_modes)
        self.light_head = _zero_linear(hidden, 27)
        # Down again: what is known of the whole face meets the vertices, from coarse to fine.
        self.broadcast = nn.Linear(hidden, coarse)
        self.position_embedding = nn.Parameter(torch.zeros(1, coarse, self._lattice(0).side, self._lattice(0).side))
        self.upsample = _entry(coarse + middle, middle)
        self.refine = nn.ModuleList(nn.Sequential(*(Residual(w) for _ in range(blocks))) for w in (coarse, middle))
        # The finest level has 20 times the coarsest's cells: few channels, one convolution.
        self.narrow = nn.Conv2d(middle, fine // 2, 1)
        self.finest = nn.Sequential(nn.Conv2d(fine // 2 + vertex_channels, fine, 3, padding=1), nn.ReLU(inplace=True))
        self.offset_heads = nn.ModuleList(_zero_conv(w, 3) for w in graph_widths)
        self.surface_head = _zero_conv(fine, 4)

    def _lattice(self, index: int) -> Lattice:
        lattice = self.lattices[index]
        assert isinstance(lattice, Lattice)
        return lattice

    def forward(self, inputs: FaceInputs) -> FaceCorrections:
        """Returns the corrections of a batch."""
        x = (inputs.image - 0.5) * 2.0
        pictures = []
        for stage in self.trunk:
            x = stage(x.contiguous(memory_format=torch.channels_last))
            pictures.append(x)
        whole = x.float().mean((2, 3))
        coarse, middle, fine = (self._lattice(i) for i in range(3))
        seen = [
            _sample(picture, inputs.vertex_at[:, : lattice.num_verts])
            for picture, lattice in zip(pictures[1:], (middle, coarse), strict=False)
        ]
        known = fine.from_verts(inputs.vertex_features.to(seen[0].dtype))
        middle_x = torch.cat([self.encode[0](known), middle.from_verts(seen[0])], dim=1)
        middle_x = middle.masked(self.encode[1](middle_x))
        coarse_x = torch.cat([middle_x[..., ::2, ::2], coarse.from_verts(seen[1])], dim=1)
        coarse_x = self.coarse(coarse.masked(self.encode[2](coarse_x)))

        squeezed = coarse.to_verts(self.squeeze(coarse_x)).float().flatten(1)
        mixed = self.fuse(torch.cat([squeezed, whole, inputs.fit_features], dim=1))
        mixed = mixed + self.fuse_residual(mixed)

        y = coarse_x + (self.position_embedding + self.broadcast(mixed)[:, :, None, None]).to(coarse_x.dtype)
        y = coarse.masked(self.refine[0](y))
        offsets = self._offsets(0, y)
        y = self.upsample(torch.cat([enlarge(y, coarse, middle), middle_x], dim=1))
        y = middle.masked(self.refine[1](y))
        offsets = subdivide(offsets) + self._offsets(1, y)
        y = self.finest(torch.cat([enlarge(self.narrow(y), middle, fine), known.to(y.dtype)], dim=1))
        offsets = subdivide(offsets) + self._offsets(2, y)
        surface = fine.to_verts(self.surface_head(y)).float()

        coefficients = self.coefficient_head(mixed).float()
        pose, identity, expression = coefficients.split([6, self.identity_modes, self.expression_modes], dim=1)
        return FaceCorrections(
            turn=0.02 * pose[:, :3],
            shift=0.02 * pose[:, 3:5],
            log_depth=0.02 * pose[:, 5],
            identity=0.2 * identity,
            expression=0.05 * expression,
            offsets_mm=offsets,
            light=0.2 * self.light_head(mixed).float().reshape(-1, 9, 3),
            log_albedo=2 * torch.tanh(surface[..., :3] / 2),
            log_sigma=3 * torch.tanh(surface[..., 3] / 3),
        )

    @torch.no_grad()
    def scale_uncertainty(self, share: float) -> None:
        """Multiplies what the network says of its uncertainty, save where that is extreme."""
        for parameter in self.surface_head.parameters():
            parameter[3] *= share

    def _offsets(self, index: int, y: Tensor) -> Tensor:
        moved = self._lattice(index).to_verts(self.offset_heads[index](y).float())
        return OFFSET_REACH_MM * torch.tanh(moved / OFFSET_REACH_MM)


def _sample(picture: Float[Tensor, "b c h w"], at: Float[Tensor, "b v 2"]) -> Float[Tensor, "b v c"]:
    """Returns the picture's features at the places of the vertices."""
    at = at[:, None].to(picture.dtype if picture.dtype == torch.float64 else torch.float32)
    sampled = functional.grid_sample(picture.to(at.dtype), at, padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)
