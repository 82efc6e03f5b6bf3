"""The paper's MeshNet as a method of the reconstruction job."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from raylib.config import PaperSettings, ReconstructConfig
from raylib.detection.alignment import reduced
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.geometry.camera import Camera
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.paper.scene import TrainedMeshnet, load_meshnet, network_input
from raylib.runtime.provenance import sha256

_CROP_MM = 252.0
"""Width of an aligned crop on the face: four distances between the eyes' centres, 63 mm each."""
_CROP_TO_EYES_MM = 6.5
"""How far the eyes are above the crop's centre."""
_FRONT_MM = 30.0
"""How far the template's front, where a nose would be, stands before the eyes' corners."""


def _placed(settings: PaperSettings) -> tuple[float, Float[Tensor, " 3"]]:
    """Returns scale and shift that bring the template into canonical face space, millimetres.

    The paper's network knows no millimetres; the crop does, which is as wide as the head needs.
    """
    across = 2 * settings.distance * math.tan(math.radians(settings.fov_deg / 2))
    scale = _CROP_MM / across
    return scale, torch.tensor([0.0, -_CROP_TO_EYES_MM, _FRONT_MM - scale])


def _model(trained: TrainedMeshnet, sha256_of_weights: str) -> LinearFaceModel:
    """Returns the template as a face model without modes or landmarks.

    The hemisphere shares its triangles with the shipped prior, and so its texture layout and mirror pairs.
    """
    template, prior = trained.template, load_prior()
    scale, shift = _placed(trained.settings)
    same = torch.equal(template.faces, prior.faces)
    none = torch.zeros(0, len(template.verts), 3)
    return LinearFaceModel(
        name="meshnet_paper",
        mean=template.verts * scale + shift,
        faces=template.faces,
        identity=none,
        expression=none,
        expression_bounds=torch.zeros(0, 2),
        landmark_verts=torch.full((68,), -1),
        contour_verts=torch.zeros(0, 1, dtype=torch.long),
        mirror_verts=prior.mirror_verts if same else None,
        uv=prior.uv if same else template.verts[:, :2] * 0.49 + 0.5,
        sha256=sha256_of_weights,
    )


class PaperMethod:
    """MeshNet: crop and label map in, offsets of the template's vertices out, by one look of the network.

    The paper's scene has one camera before every crop; here the template is placed in canonical space, and the camera
    follows, so that the mesh still lies where the network put it in the photograph. Its vertex colours hold the
    photograph's light, as the texture does, and are left to it.

    Args:
        config: names the weights.

    Raises:
        ConfigError: the weights cannot be read.
    """

    scale_source = "template"

    def __init__(self, config: ReconstructConfig):
        path = Path(config.meshnet_weights)
        self._trained = load_meshnet(path)
        self.weights_sha256 = sha256(path)
        self.model = _model(self._trained, self.weights_sha256)

    @torch.inference_mode()
    def __call__(self, faces: FaceBatch) -> FaceEstimates:
        """Returns the meshes that the network sees, and the cameras that see them so."""
        assert faces.labels is not None  # the configuration demands segmentation
        trained, count = self._trained, len(faces)
        size = trained.network.input_px
        small = [reduced(crop, labels, size) for crop, labels in zip(faces.crops, faces.labels, strict=True)]
        offsets, _ = trained.network(network_input(np.stack([s[0] for s in small]), np.stack([s[1] for s in small])))
        scale, shift = _placed(trained.settings)
        verts_mm = (trained.template.verts + offsets) * scale + shift
        seen = trained.scene().camera(count)
        # R (x s + t) + T' = s (R x + T): the same rays.
        T = seen.T * scale - (seen.R @ shift[:, None])[..., 0]
        camera = faces.photo_camera(Camera(seen.R, T, seen.focal_px, seen.principal_px), size)
        unknown = torch.full((count,), torch.nan)
        none = torch.zeros(count, 0)
        return FaceEstimates(camera, verts_mm, none, none, torch.full((count, 68, 2), torch.nan), unknown, unknown)
