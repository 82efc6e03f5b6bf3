"""MeshNet, the paper's second network: a picture and its segmentation to vertex offsets and vertex colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raylib.errors import ConfigError

PAPER_WIDTHS = (16, 32, 64, 128)
"""Channels of the convolutions (Appendix B)."""

PAPER_INPUT_PX = 128
"""Side of the pictures of Appendix B; the experiments ran at 64."""


class ConvTrunk(nn.Module):
    """The paper's feature extractor: unpadded 3x3 convolutions, each with ReLU and 2x2 max pooling, then flattened.

    Args:
        in_channels: channels of the picture.
        widths: channels of the convolutions.
        input_px: height and width of the pictures.

    Raises:
        ConfigError: nothing would be left of so small a picture.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], input_px: int):
        super().__init__()
        side = input_px
        for _ in widths:
            side = (side - 2) // 2
        if side < 1:
            raise ConfigError(
                f"input_px is {input_px}, expected at least {3 * 2 ** len(widths) - 2} for {len(widths)} convolutions"
            )
        self.input_px = input_px
        self.convs = nn.ModuleList(
            nn.Conv2d(above, here, 3) for above, here in zip((in_channels, *widths), widths, strict=False)
        )
        self.num_features = widths[-1] * side * side

    def forward(self, image: Float[Tensor, "b c s s"]) -> Float[Tensor, "b n"]:
        """Returns the features of pictures of `input_px` pixels."""
        if image.shape[-1] != self.input_px or image.shape[-2] != self.input_px:
            raise ValueError(f"pictures are {tuple(image.shape[-2:])}, expected {self.input_px} x {self.input_px}")
        for conv in self.convs:
            image = functional.max_pool2d(functional.relu(conv(image)), 2)
        return image.flatten(1)


class MeshNet(nn.Module):
    """MeshNet of Appendix B: four convolutions and two flat linear heads.

    58,530,774 parameters at 128 pixels and 2113 vertices, 99.8 % of them in the heads.

    Args:
        num_verts: vertices of the template.
        input_px: height and width of the pictures.
        widths: channels of the convolutions.
        in_channels: RGB and the label map in FASSEG's colours.
    """

    def __init__(
        self,
        num_verts: int = 2113,
        input_px: int = PAPER_INPUT_PX,
        widths: Sequence[int] = PAPER_WIDTHS,
        in_channels: int = 6,
    ):
        super().__init__()
        self.num_verts, self.input_px = num_verts, input_px
        self.trunk = ConvTrunk(in_channels, widths, input_px)
        self.offsets = nn.Linear(self.trunk.num_features, 3 * num_verts)
        self.colors = nn.Linear(self.trunk.num_features, 3 * num_verts)

    def forward(self, image: Float[Tensor, "b 6 s s"]) -> tuple[Float[Tensor, "b v 3"], Float[Tensor, "b v 3"]]:
        """Returns offsets from the template's vertices, in its unit, and colours in 0..1.

        The paper names no bound of the colours; here a sigmoid holds them to what a surface can reflect.
        """
        features = self.trunk(image)
        shape = (len(image), self.num_verts, 3)
        return self.offsets(features).view(shape), torch.sigmoid(self.colors(features)).view(shape)
