"""BabyMeshNet, the paper's first network: a picture to vertex offsets."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from raylib.paper.meshnet import ConvTrunk

PAPER_WIDTHS = (8, 12, 16, 32)
"""Channels of the convolutions (Appendix A; the text speaks of three convolutions, the table shows four)."""

PAPER_INPUT_PX = 256
"""Side of the pictures of Appendix A."""


class BabyMeshNet(nn.Module):
    """BabyMeshNet of Appendix A: four convolutions and a flat linear head.

    48,221,762 parameters at 256 pixels and the 2562 vertices of `mesh.ico_sphere(4)`.

    Args:
        num_verts: vertices of the template.
        input_px: height and width of the pictures.
        widths: channels of the convolutions.
    """

    def __init__(self, num_verts: int = 2562, input_px: int = PAPER_INPUT_PX, widths: Sequence[int] = PAPER_WIDTHS):
        super().__init__()
        self.num_verts, self.input_px = num_verts, input_px
        self.trunk = ConvTrunk(3, widths, input_px)
        self.offsets = nn.Linear(self.trunk.num_features, 3 * num_verts)

    def forward(self, image: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b v 3"]:
        """Returns offsets from the template's vertices, in its unit."""
        return self.offsets(self.trunk(image)).view(len(image), self.num_verts, 3)
