"""The paper's two trainings: BabyMeshNet on the picture of a mesh, MeshNet on faces."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from raylib.config import LossWeights, TrainBabyMeshnetConfig, TrainPaperConfig
from raylib.datasets.face_set import FaceSet
from raylib.geometry.mesh import TemplateMesh
from raylib.geometry.topology import Topology
from raylib.paper.babymeshnet import BabyMeshNet
from raylib.paper.meshnet import MeshNet
from raylib.paper.scene import TemplateScene, network_input
from raylib.paper.templates import load_template
from raylib.paper.vgg import VggFeatures, load_vgg
from raylib.render import RenderedImage
from raylib.segmentation.labels import Label
from raylib.training.loop import Worker
from raylib.training.paper.loss import PaperLoss, picture_distance
from raylib.training.paper.task import PaperTask
from raylib.training.precision import resolve_precision
from raylib.training.strips import STRIP_FACES, row_of, strip_index

_FLYING = 4.0
_TARGET_GREY = 0.8
_VALIDATION_BATCH = 16


def flying_edges(verts: Float[Tensor, "b v 3"], topology: Topology) -> Float[Tensor, " b"]:
    """Returns each mesh's share of edges that are over four times as long as its median edge: flying vertices."""
    a, b = topology.edges.unbind(1)
    length = (verts[:, a] - verts[:, b]).norm(dim=2)
    return (length > _FLYING * length.median(dim=1, keepdim=True).values).float().mean(1)


def masked_psnr(
    rendered: Float[Tensor, "b h w 3"], image: Float[Tensor, "b h w 3"], mask: Bool[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """Returns the peak signal to noise ratio of each picture over the pixels of its mask, in dB."""
    error = ((rendered - image).square().mean(3) * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def silhouette_iou(alpha: Float[Tensor, "b h w"], mask: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Returns how far covered pixels and mask agree: intersection over union."""
    covered = alpha > 0.5
    return (covered & mask).sum((1, 2)) / (covered | mask).sum((1, 2)).clamp(min=1)


def as_bytes(pictures: Float[Tensor, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns pictures of values in 0..1 as bytes."""
    return (pictures.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


class BabyTask(PaperTask):
    """BabyMeshNet imitates one picture: the template becomes a mesh that looks like the target from one side.

    Args:
        config: template, target, loss and softness.
        worker: whose task it is.
    """

    def __init__(self, config: TrainBabyMeshnetConfig, worker: Worker):
        super().__init__(config, 1, 1, worker)
        self.config, device = config, worker.device
        paper = config.paper
        self.template = load_template(paper.template)
        self.scene = TemplateScene(self.template, paper, config.image_px, device)
        goal = load_template(paper.target)
        with torch.no_grad():
            look = TemplateScene(goal, paper, config.image_px, device)
            seen = look.render(look.verts[None], torch.full_like(look.verts[None], _TARGET_GREY))
        self.image = seen.image
        self._silhouette = seen.alpha > 0.5
        vgg = _vgg(config, device) if paper.loss.vgg > 0 else None
        self._loss = PaperLoss(self.scene, LossWeights(**asdict(paper.loss), masked=False), vgg)
        self._input = self.image.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def new_network(self) -> BabyMeshNet:
        """Returns BabyMeshNet for the template."""
        return BabyMeshNet(len(self.template.verts), self.config.image_px)

    def deform(self, model: nn.Module) -> Float[Tensor, "1 v 3"]:
        """Returns the template's vertices where the network puts them."""
        verts: Tensor = self.scene.verts + model(self._input)
        return verts

    def render(self, verts: Float[Tensor, "1 v 3"], done: float = 1.0) -> RenderedImage:
        """Returns the picture of a deformed template in the target's colour."""
        grey = torch.full_like(verts, _TARGET_GREY)
        return self.scene.render(verts, grey, self.scene.sigma_px2(done))

    def losses(self, model: nn.Module, batch: Int64[np.ndarray, " b"], done: float) -> dict[str, Float[Tensor, ""]]:
        """Returns the loss of the only example."""
        verts = self.deform(model)
        return self._loss(self.render(verts, done).image, verts, self.image, self._silhouette)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], int]:
        """Returns the loss at the final softness and how far the silhouettes agree."""
        verts = self.deform(network)
        seen = self.render(verts)
        terms = self._loss(seen.image, verts, self.image, self._silhouette)
        row = {f"val_{name}": float(term) for name, term in terms.items()}
        row["val_iou"] = float(silhouette_iou(seen.alpha, self._silhouette))
        return row, 1

    @torch.no_grad()
    def strip(self, network: nn.Module) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the target beside the deformed template."""
        return row_of(as_bytes(torch.cat([self.image, self.render(self.deform(network)).image])))


class FaceTask(PaperTask):
    """MeshNet sees faces and their label maps and is to give a mesh that looks like them.

    Args:
        config: template, loss and softness.
        train: the faces of all workers, of which this one takes its share.
        validation: those for validation, likewise.
        worker: whose task it is.
    """

    def __init__(self, config: TrainPaperConfig, train: FaceSet, validation: FaceSet, worker: Worker):
        share = slice(worker.rank, None, worker.world)
        self._train, self._validation = train.select(share), validation.select(share)
        super().__init__(config, len(train), len(self._train), worker)
        self.config, self.device = config, worker.device
        paper = config.paper
        self.template: TemplateMesh = load_template(paper.template)
        self.scene = TemplateScene(self.template, paper, config.image_px, worker.device)
        # A file of weights also serves as a measure for stages whose loss does without it.
        wanted = paper.loss.vgg > 0 or paper.vgg_weights != "torchvision"
        self._vgg = _vgg(config, worker.device) if wanted else None
        self.loss = PaperLoss(self.scene, paper.loss, self._vgg)
        self._topology = Topology(self.scene.faces, len(self.scene.verts))

    def new_network(self) -> MeshNet:
        """Returns MeshNet for the template."""
        return MeshNet(len(self.template.verts), self.config.image_px)

    def tensors(self, chosen: Int64[np.ndarray, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns of some training faces the network's input, the pictures and where they show no background."""
        return self._tensors(self._train.select(chosen))

    def _tensors(self, faces: FaceSet) -> tuple[Tensor, Tensor, Tensor]:
        x = network_input(faces.images, faces.labels, self.device)
        foreground = torch.from_numpy(faces.labels != Label.BACKGROUND).to(self.device)
        return x, x[:, :3].permute(0, 2, 3, 1), foreground

    def losses(self, model: nn.Module, batch: Int64[np.ndarray, " b"], done: float) -> dict[str, Float[Tensor, ""]]:
        """Returns the paper's loss and its terms."""
        x, image, foreground = self.tensors(batch)
        offsets, colors = model(x)
        verts = self.scene.verts + offsets
        rendered = self.scene.render(verts, colors, self.scene.sigma_px2(done)).image
        return self.loss(rendered, verts, image, foreground)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], int]:
        """Returns the loss's terms, masked PSNR, distance in VGG19's features and share of flying edges."""
        totals: dict[str, float] = {}
        for start in range(0, len(self._validation), _VALIDATION_BATCH):
            part = self._validation.select(slice(start, start + _VALIDATION_BATCH))
            for name, value in self._figures(network, part).items():
                totals[name] = totals.get(name, 0.0) + value * len(part)
        count = len(self._validation)
        return {name: total / max(1, count) for name, total in totals.items()}, count

    def _figures(self, network: nn.Module, part: FaceSet) -> dict[str, float]:
        x, image, foreground = self._tensors(part)
        offsets, colors = network(x)
        verts = self.scene.verts + offsets
        seen = self.scene.render(verts, colors)
        row = {f"val_{k}": float(v) for k, v in self.loss(seen.image, verts, image, foreground).items()}
        row["val_psnr_db"] = float(masked_psnr(seen.image, image, foreground).mean())
        row["val_flying_edges"] = float(flying_edges(verts, self._topology).mean())
        if self._vgg is not None:
            mask = foreground[..., None]
            row["val_vgg_distance"] = float(picture_distance(self._vgg, seen.image * mask, image * mask).mean())
        return row

    @torch.no_grad()
    def deform(
        self, network: nn.Module, count: int
    ) -> tuple[Float[Tensor, "b v 3"], Float[Tensor, "b v 3"], Float[Tensor, "b h w 3"], FaceSet]:
        """Returns vertices, colours, pictures and the faces themselves of the first validation faces."""
        faces = self._validation.select(np.linspace(0, len(self._validation) - 1, count).round().astype(int))
        offsets, colors = network(self._tensors(faces)[0])
        verts = self.scene.verts + offsets
        return verts, colors, self.scene.render(verts, colors).image, faces

    def strip(self, network: nn.Module) -> UInt8[np.ndarray, "h w 3"]:
        """Returns some validation faces as the network renders them."""
        return row_of(as_bytes(self.deform(network, STRIP_FACES)[2]))

    def originals(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the faces of the strip as they were photographed."""
        return row_of(self._validation.select(strip_index(len(self._validation))).images)


def _vgg(config: TrainPaperConfig | TrainBabyMeshnetConfig, device: torch.device) -> VggFeatures:
    features = load_vgg(config.paper.vgg_weights).to(device)
    return features.to(resolve_precision(config.precision, device))
