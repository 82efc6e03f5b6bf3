"""How a face becomes a mesh: the methods of the reconstruction job behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from raylib.config import ReconstructConfig
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import LandmarkFitter
from raylib.morphable.model import LinearFaceModel
from raylib.morphable.readers import load_model
from raylib.paper.method import PaperMethod
from raylib.regressor.predictor import FaceNetwork


class Estimator(Protocol):
    """A reconstruction method with its weights loaded.

    Attributes:
        model: gives the topology of the meshes (triangles, texture coordinates, mirror pairs) and the landmarks.
        weights_sha256: hash of all weights that shape the result.
        scale_source: where millimetres come from.
    """

    model: LinearFaceModel
    weights_sha256: str
    scale_source: str

    def __call__(self, faces: FaceBatch) -> FaceEstimates:
        """Returns the estimates of a batch of faces."""


class LandmarkMethod:
    """The paper's keypoint method (III.A.1): a linear face model fitted to 68 landmarks.

    Args:
        config: model and fit.
    """

    scale_source = "model prior"

    def __init__(self, config: ReconstructConfig):
        self.model = load_model(config.morphable_model)
        self.weights_sha256 = self.model.sha256
        self._fitter = LandmarkFitter(self.model, config.fit)

    def __call__(self, faces: FaceBatch) -> FaceEstimates:
        """Returns the most probable faces for the landmarks."""
        fit = self._fitter.fit(faces.landmarks_px, faces.focal_px, faces.principal_px)
        return FaceEstimates(
            fit.camera, fit.verts_mm, fit.identity, fit.expression, fit.landmarks_px, fit.error_px, fit.error_iod
        )


class MeshnetMethod:
    """The physics-based network: corrections of the landmark fit, with albedo, light and uncertainty.

    Args:
        config: weights and fit.
    """

    scale_source = "model prior"

    def __init__(self, config: ReconstructConfig):
        on_gpu = config.gpus_per_actor > 0 and torch.cuda.is_available()
        self._network = FaceNetwork(config.meshnet_weights or None, "cuda" if on_gpu else "cpu")
        self.model, self.weights_sha256 = self._network.model, self._network.weights_sha256
        self._fitter = LandmarkFitter(self.model, config.fit)

    def __call__(self, faces: FaceBatch) -> FaceEstimates:
        """Returns the corrected faces."""
        fit = self._fitter.fit(faces.landmarks_px, faces.focal_px, faces.principal_px)
        return self._network(faces, fit)


METHODS: dict[str, Callable[[ReconstructConfig], Estimator]] = {
    "landmarks": LandmarkMethod,
    "meshnet": MeshnetMethod,
    "meshnet_paper": PaperMethod,
}
"""The class of each value of `ReconstructConfig.method`."""


def load_method(config: ReconstructConfig) -> Estimator:
    """Returns the method that the configuration asks for.

    Raises:
        ConfigError: its model or weights cannot be read.
    """
    return METHODS[config.method](config)
