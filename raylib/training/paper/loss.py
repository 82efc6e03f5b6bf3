"""The loss that the paper trained MeshNet with: its equation 5, each term by name."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylib.config import LossWeights
from raylib.geometry.topology import Topology
from raylib.paper.losses import chamfer, edge_mean, masked_mse, normal_consistency, uniform_laplacian
from raylib.paper.scene import TemplateScene
from raylib.paper.vgg import VggFeatures, vgg_distance


class PaperLoss:
    """`0.5 mse + 0.6 vgg + 15 chamfer + edge + 0.01 normal + 0.1 laplacian`, or with other weights.

    The mean over the pictures of a batch, so that workers, larger batches and accumulation give the same gradient.

    Args:
        scene: template that the chamfer term compares with.
        weights: of the terms; those of weight 0 are not computed.
        vgg: features of pictures; needed where the weight of `vgg` is not 0.
    """

    def __init__(self, scene: TemplateScene, weights: LossWeights, vgg: VggFeatures | None):
        if weights.vgg > 0 and vgg is None:
            raise ValueError("vgg is None, expected features because the term has a weight")
        self.weights = weights
        self._vgg = vgg
        self._template = scene.verts
        self._topology = Topology(scene.faces, len(scene.verts))

    def __call__(
        self,
        rendered: Float[Tensor, "b h w 3"],
        verts: Float[Tensor, "b v 3"],
        image: Float[Tensor, "b h w 3"],
        foreground: Bool[Tensor, "b h w"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns the weighted sum as "loss", then each term without its weight.

        Args:
            rendered: pictures of the deformed meshes.
            verts: their vertices.
            image: the photographs.
            foreground: where the segmentation sees no background.
        """
        w = self.weights
        if w.masked:
            rendered, image = rendered * foreground[..., None], image * foreground[..., None]
        terms: dict[str, Tensor] = {}
        if w.mse > 0:
            terms["mse"] = masked_mse(rendered, image)
        if w.vgg > 0:
            assert self._vgg is not None
            terms["vgg"] = picture_distance(self._vgg, rendered, image).mean()
        if w.chamfer > 0:
            terms["chamfer"] = chamfer(verts, self._template.expand(len(verts), -1, -1))
        if w.edge > 0:
            terms["edge"] = edge_mean(verts, self._topology)
        if w.normal > 0:
            terms["normal"] = normal_consistency(verts, self._topology)
        if w.laplacian > 0:
            terms["laplacian"] = uniform_laplacian(verts, self._topology)
        total = torch.stack([getattr(w, name) * term for name, term in terms.items()]).sum()
        return {"loss": total, **terms}


def picture_distance(
    vgg: VggFeatures, rendered: Float[Tensor, "b h w 3"], image: Float[Tensor, "b h w 3"]
) -> Float[Tensor, " b"]:
    """Returns the distance of each pair of pictures in VGG19's features; no gradient flows to `image`."""
    dtype = vgg.scale.dtype
    with torch.no_grad():
        theirs = vgg(image.permute(0, 3, 1, 2).to(dtype))
    return vgg_distance(vgg(rendered.permute(0, 3, 1, 2).to(dtype)), theirs)
