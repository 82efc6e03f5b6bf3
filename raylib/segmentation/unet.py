"""The U-Net of Ronneberger, Fischer and Brox 2015 with free widths, depth, normalisation and class count."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raylib.errors import ConfigError

Norm = Literal["none", "batch", "group"]

PAPER_WIDTHS = (64, 128, 256, 512, 1024)
"""Channels per level of the original network (31 million parameters)."""


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        # 32 channels a group where they divide, else one group: the backward pass of torch's CPU kernel over
        # narrow groups costs more than the convolutions (20 times one over 32 channels).
        return nn.GroupNorm(channels // 32 if channels % 32 == 0 else 1, channels)
    return nn.Identity()


def _double_conv(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=norm == "none"),
            _norm(norm, out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Contracting path, expanding path, and a copy of every level across.

    Departures from the original: convolutions are padded, so that the map is as large as the picture, and a
    normalisation may follow each convolution. Group normalisation never looks at another picture of the batch, so
    that workers with one picture each compute what one process with all of them does.

    Args:
        widths: channels per level, from full resolution downwards; its length is the depth.
        num_classes: channels of the logits.
        in_channels: channels of the picture.
        norm: what follows each convolution.
    """

    def __init__(
        self, widths: Sequence[int] = PAPER_WIDTHS, num_classes: int = 6, in_channels: int = 3, norm: Norm = "group"
    ):
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ConfigError(f"widths is {list(widths)}, expected at least two positive channel counts")
        if norm not in ("none", "batch", "group"):
            raise ConfigError(f"norm is {norm!r}, expected 'none', 'batch' or 'group'")
        self.widths = tuple(widths)
        self.num_classes, self.in_channels, self.norm = num_classes, in_channels, norm
        self.down = nn.ModuleList(
            _double_conv(above, here, norm) for above, here in zip((in_channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in itertools.pairwise(widths)
        )
        self.merge = nn.ModuleList(_double_conv(2 * here, here, norm) for here in widths[:-1])
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Returns class logits as large as the picture.

        Args:
            image: values in 0..1, any height and width (padded inside to a multiple of 2^(depth-1) by repeating
                the border).
        """
        height, width = image.shape[-2:]
        step = 2 ** (len(self.widths) - 1)
        pad = (0, -width % step, 0, -height % step)
        x = functional.pad(image, pad, mode="replicate") if any(pad) else image
        # Centred here, so that no caller can forget it.
        x = (x - 0.5) * 4.0
        across: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            across.append(x)
        x = across.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(torch.cat([across.pop(), up(x)], dim=1))
        return self.head(x)[..., :height, :width]
