"""A template deformed by a network and looked at as the paper looks at it: one camera, one light, vertex colours.

Pictures are taken as they are: the paper compares sRGB values and renders into them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raylib.config import PaperSettings, SceneSettings
from raylib.errors import ConfigError
from raylib.geometry.camera import FRONTAL, Camera
from raylib.geometry.mesh import TemplateMesh
from raylib.lighting.lights import PhongLight
from raylib.paper.meshnet import MeshNet
from raylib.render import RenderedImage, SoftRenderer, SoftSettings
from raylib.segmentation.labels import draw_labels

_Z_FAR = 100.0
_GAMMA = 1e-4 * (_Z_FAR - 1)  # PyTorch3D's usual 1e-4 between planes 1 and 100, in the template's unit
_FORMAT = "raylib.meshnet_paper.1"


class TemplateScene:
    """Camera, light and renderer around a template.

    Args:
        template: vertices in a unit of about its radius, +z to the camera, and triangles.
        settings: camera, light and softness.
        image_px: side of the rendered pictures.
        device: where the pictures are rendered.
    """

    def __init__(
        self, template: TemplateMesh, settings: SceneSettings, image_px: int, device: torch.device | str = "cpu"
    ):
        self.settings, self.image_px = settings, image_px
        self.verts = template.verts.to(device)
        self.faces = template.faces.to(device)
        soft = SoftSettings((image_px, image_px), settings.sigma_px2, _GAMMA, _Z_FAR, settings.composite)
        self._renderer = SoftRenderer(self.faces, soft)
        focal = image_px / 2 / math.tan(math.radians(settings.fov_deg / 2))
        self._camera = Camera(
            torch.tensor([FRONTAL], device=device),
            torch.tensor([[0.0, 0.0, settings.distance]], device=device),
            torch.tensor([focal], device=device),
            torch.full((1, 2), image_px / 2, device=device),
        )
        white = torch.ones(1, 3, device=device)
        position = torch.tensor([[0.0, 0.0, settings.distance]], device=device)
        self._light = PhongLight(position, settings.ambient * white, (1 - settings.ambient) * white, 0 * white)

    def sigma_px2(self, done: float) -> float:
        """Returns the softness after a share of the training: a geometric fall over the first half."""
        first, last = self.settings.first_sigma_px2, self.settings.sigma_px2
        return first * (last / first) ** min(1.0, 2 * done)

    def camera(self, count: int) -> Camera:
        """Returns the camera once for each picture of a batch."""
        c = self._camera
        return Camera(*(t.expand(count, *t.shape[1:]) for t in (c.R, c.T, c.focal_px, c.principal_px)))

    def light(self, count: int) -> PhongLight:
        """Returns the light once for each picture of a batch."""
        at = self._light
        position, ambient, diffuse, specular = (
            t.expand(count, 3) for t in (at.position, at.ambient, at.diffuse_color, at.specular_color)
        )
        return PhongLight(position, ambient, diffuse, specular)

    def render(
        self, verts: Float[Tensor, "b v 3"], colors: Float[Tensor, "b v 3"], sigma_px2: float | None = None
    ) -> RenderedImage:
        """Returns pictures of the deformed template before black.

        Args:
            verts: deformed vertices.
            colors: of the vertices.
            sigma_px2: softness of the silhouettes; the settings' last one by default.
        """
        renderer = self._renderer if sigma_px2 is None else self._renderer.with_settings(sigma_px2=sigma_px2)
        return renderer(verts, self.camera(len(verts)), self.light(len(verts)), albedo=colors)


def network_input(
    images: UInt8[np.ndarray, "b s s 3"], labels: UInt8[np.ndarray, "b s s"], device: torch.device | str = "cpu"
) -> Float[Tensor, "b 6 s s"]:
    """Returns MeshNet's input: the pictures and their label maps drawn in FASSEG's colours, all in 0..1."""
    both = np.concatenate([images, draw_labels(labels)], axis=3)
    x = torch.from_numpy(both).to(device).permute(0, 3, 1, 2).float() / 255
    return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TrainedMeshnet:
    """A trained MeshNet with the scene it was trained for.

    Attributes:
        network: ready for inference.
        template: what its offsets are added to.
        settings: of the scene.
    """

    network: MeshNet
    template: TemplateMesh
    settings: PaperSettings

    def scene(self, device: torch.device | str = "cpu") -> TemplateScene:
        """Returns the scene in which the network's meshes look like its input."""
        return TemplateScene(self.template, self.settings, self.network.input_px, device)


def save_meshnet(trained: TrainedMeshnet, path: Path) -> None:
    """Writes network (half precision), template and scene as one safetensors file."""
    settings = trained.settings
    names = ("template", "sigma_px2", "composite", "distance", "fov_deg", "ambient")
    scene = {name: getattr(settings, name) for name in names}
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in trained.network.state_dict().items()}
    tensors |= {"template.verts": trained.template.verts.cpu(), "template.faces": trained.template.faces.int().cpu()}
    metadata = {"format": _FORMAT, "input_px": str(trained.network.input_px), "scene": json.dumps(scene)}
    save_file(tensors, path, metadata)


def load_meshnet(path: Path) -> TrainedMeshnet:
    """Returns what `save_meshnet` wrote.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ConfigError(f"meshnet weights are {str(path)!r}, expected a file that jobs/train_meshnet.py wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"meshnet weights are {str(path)!r}, expected a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ConfigError(
            f"meshnet weights {str(path)!r} say format {metadata.get('format')!r}, expected {_FORMAT!r}"
        )
    template = TemplateMesh(tensors.pop("template.verts"), tensors.pop("template.faces").long())
    network = MeshNet(len(template.verts), int(metadata["input_px"]))
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return TrainedMeshnet(network.eval(), template, PaperSettings(**json.loads(metadata["scene"])))
