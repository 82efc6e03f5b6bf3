"""Faces by the trained network: weights file in, estimates of pose, shape, albedo, light and uncertainty out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raylib.fitting.crop_space import CropFit
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import OUTER_EYE, LandmarkFit, SlidingLandmarks
from raylib.geometry.camera import Camera
from raylib.geometry.mesh import face_areas_normals
from raylib.morphable.model import load_prior
from raylib.regressor.corrections import (
    CropEstimate,
    Network,
)
from raylib.regressor.network import FaceCorrections, FaceInputs
from raylib.regressor.weights import load_weights, shipped_weights

INPUT_PX = 128
"""Side of the crop that the network sees."""
SEEN_SHARE = 0.7
"""How far albedo follows the photograph's colours where the bare face is seen (see
`RegressorGeometry.seen_albedo`)."""


def crop_fit(faces: FaceBatch, fit: LandmarkFit) -> CropFit:
    """Returns the fits in the space of the crops."""
    to_photo = torch.from_numpy(faces.crop_to_photo).double()
    side = faces.crops.shape[1]

    def points(px: Tensor) -> Tensor:
        offset = px.double().cpu() - to_photo[:, None, :, 2]
        return (torch.linalg.solve(to_photo[:, None, :, :2], offset[..., None])[..., 0] / side).float()

    return CropFit(
        camera=faces.crop_camera(fit.camera, 1),
        identity=fit.identity,
        expression=fit.expression,
        landmarks=points(faces.landmarks_px).to(fit.identity.device),
        fitted=points(fit.landmarks_px).to(fit.identity.device),
    )


def in_precision(network: nn.Module, precision: torch.dtype) -> Network:
    """Returns the network in mixed precision where `precision` is bfloat16, as it is otherwise."""

    def run(inputs: FaceInputs) -> FaceCorrections:
        with torch.autocast(inputs.image.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            corrections: FaceCorrections = network(inputs)
        return corrections

    return run


class FaceNetwork:
    """Corrects landmark fits by what the picture shows; weights are loaded once, when this is made.

    Args:
        weights: a file written by `save_weights`; the shipped one by default.
        device: where the network runs, `cpu` or `cuda`.
        batch_size: faces that go through the network together.

    Attributes:
        model: the face model: topology, landmarks, and what the fits that are corrected must be of.
        weights_sha256: hash of the weights file.

    Raises:
        ConfigError: the weights cannot be read.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "cpu", batch_size: int = 16):
        path = Path(weights) if weights else shipped_weights()
        self.model = load_prior()
        network, corrector = load_weights(path, self.model)
        self.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.device, self.batch_size = torch.device(device), batch_size
        self._landmarks = SlidingLandmarks(self.model)
        self.corrector = corrector.to(self.device)
        # Twice as fast on the CPU as the default layout, and what tensor cores want.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, faces: FaceBatch, fit: LandmarkFit) -> FaceEstimates:
        """Returns the corrected faces, on the CPU.

        Args:
            faces: the faces, with label maps.
            fit: landmark fits of the same faces with `model`.

        Raises:
            ValueError: there are no label maps.
        """
        if faces.labels is None:
            raise ValueError("faces.labels is None, expected label maps of the crops")
        fits = crop_fit(faces, fit)
        images, labels = _reduced(faces.crops, faces.labels)
        parts = []
        for start in range(0, len(faces), self.batch_size):
            part = slice(start, start + self.batch_size)
            chosen = CropFit(
                fits.camera.select(part),
                *(getattr(fits, n)[part] for n in ("identity", "expression", "landmarks", "fitted")),
            ).to(self.device)
            estimate = self.correct(images[part].to(self.device), labels[part].to(self.device), chosen)
            parts.append(estimate)
        return self._estimates(parts, faces, fit)

    def correct(self, images: Tensor, labels: Tensor, fit: CropFit) -> CropEstimate:
        """Returns corrected faces in the space of their crops, without new folds.

        Args:
            images: (b, 128, 128, 3) uint8 crops.
            labels: (b, 128, 128) uint8 label maps.
            fit: landmark fits.
        """
        precision = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        estimate = self.corrector.estimate(in_precision(self.network, precision), images, labels, fit)
        estimate = unfolded(estimate, self.model.faces.to(self.device))
        return replace(estimate, albedo=self.corrector.seen_albedo(estimate, images, labels, SEEN_SHARE))

    def _estimates(self, parts: list[CropEstimate], faces: FaceBatch, fit: LandmarkFit) -> FaceEstimates:
        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts]).cpu()

        R = torch.cat([part.camera.R for part in parts]).cpu()
        T = torch.cat([part.camera.T for part in parts]).cpu()
        turn = torch.from_numpy(faces.crop_to_photo[:, :, :2]).float()
        turn = turn / turn.det().sqrt()[:, None, None]
        R[:, :2], T[:, :2] = turn @ R[:, :2], (turn @ T[:, :2, None])[..., 0]
        camera = Camera(R, T, fit.camera.focal_px, fit.camera.principal_px)
        verts = joined("verts_mm")
        given = faces.landmarks_px.to(verts)
        index = self._landmarks.nearest(verts, camera, given)
        marks = verts.gather(1, index[..., None].expand(-1, -1, 3))
        landmarks = camera.project(marks)
        error = (landmarks - given).norm(dim=2).mean(1)
        between = (given[:, OUTER_EYE[0]] - given[:, OUTER_EYE[1]]).norm(dim=1)
        return FaceEstimates(
            camera=camera,
            verts_mm=verts,
            identity=joined("identity"),
            expression=joined("expression"),
            landmarks_px=landmarks,
            error_px=error,
            error_iod=error / between,
            albedo=joined("albedo"),
            light_sh=joined("light_sh"),
            sigma_mm=joined("sigma_mm"),
            strangeness=joined("strangeness"),
        )


def unfolded(estimate: CropEstimate, faces: Tensor) -> CropEstimate:
    """Returns the faces with their offsets reduced until no triangle is turned over against the linear model's."""
    verts, offsets = estimate.verts_mm, estimate.offsets_mm
    base = verts - offsets
    normals = face_areas_normals(base, faces)[1]
    share = verts.new_ones(len(verts), 1, 1)
    for step in (0.7, 0.5, 0.5, 0.0):
        folded = ((face_areas_normals(base + share * offsets, faces)[1] * normals).sum(2) < 0).any(1)
        if not bool(folded.any()):
            break
        share = torch.where(folded[:, None, None], share * step, share)
    values = {**estimate.__dict__, "offsets_mm": share * offsets, "verts_mm": base + share * offsets}
    return CropEstimate(**values)


def _reduced(crops: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Returns crops and label maps at the network's size."""
    images, maps = torch.from_numpy(np.ascontiguousarray(crops)), torch.from_numpy(np.ascontiguousarray(labels))
    if images.shape[1] == INPUT_PX:
        return images, maps
    size = (INPUT_PX, INPUT_PX)
    small = functional.interpolate(images.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    maps = functional.interpolate(maps[:, None].float(), size, mode="nearest-exact")[:, 0]
    return small.round().clamp(0, 255).byte().permute(0, 2, 3, 1), maps.byte()
