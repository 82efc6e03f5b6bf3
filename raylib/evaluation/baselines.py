"""Methods to compare with: the mean face, a model fitted to landmarks, and the eos library."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from raylib.config import EvaluateShapeConfig, FaceSettings, FitSettings
from raylib.detection.detector import FaceDetector, steady
from raylib.errors import ConfigError
from raylib.evaluation.faces import Method, Prediction, TrueFace
from raylib.evaluation.results import model_landmarks
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import FRONTAL, Camera, focal_from_fov
from raylib.geometry.similarity import similarity
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.morphable.readers import load_model


class LandmarkSource:
    """The landmarks that baselines start from; remembers those of the last face, which several ask for.

    Args:
        kind: `detected` in the picture, or `true`.
        noise_px: standard deviation of noise on true landmarks.
        seed: of the noise.
    """

    def __init__(self, kind: Literal["detected", "true"], noise_px: float = 0.0, seed: int = 0):
        self._kind, self._noise_px, self._seed = kind, noise_px, seed
        self._detector: FaceDetector | None = None
        self._last: tuple[str, np.ndarray | None] | None = None

    def __call__(self, face: TrueFace) -> Float[np.ndarray, "68 2"] | None:
        """Returns the landmarks in the face's picture; None without a picture, or where none are found or trusted."""
        if self._last is None or self._last[0] != face.name:
            self._last = (face.name, self._find(face))
        return self._last[1]

    def _find(self, face: TrueFace) -> np.ndarray | None:
        if face.photo is None:
            return None
        if self._kind == "true":
            marks = face.photo.landmarks_px
            if marks is None or self._noise_px == 0:
                return marks
            digest = hashlib.sha256(f"{self._seed} {face.name}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
            return marks + self._noise_px * rng.normal(size=marks.shape)
        if self._detector is None:
            self._detector = FaceDetector(FaceSettings())
        found = self._detector(face.photo.image)
        # Landmarks that are not to be trusted are none.
        return found[0].landmarks if found and steady(found[0]) else None


class LandmarkBaseline:
    """A linear face model fitted to landmarks, as `jobs/reconstruct.py --method landmarks` does.

    Args:
        name: of the method.
        model: what is fitted.
        landmarks: where landmarks come from.
        fov_deg: assumed field of view of the picture's longer side; 0 takes the true focal length.
    """

    def __init__(self, name: str, model: LinearFaceModel, landmarks: LandmarkSource, fov_deg: float):
        self.name = name
        self._model, self._landmarks, self._fov_deg = model, landmarks, fov_deg
        self._fitter = LandmarkFitter(model, FitSettings())
        self._faces = model.faces.numpy()

    def __call__(self, face: TrueFace) -> Prediction | None:
        """Returns the most probable face for the landmarks."""
        marks = self._landmarks(face)
        if marks is None or face.photo is None:
            return None
        focal, principal = _focal_and_principal(face, self._fov_deg)
        fit = self._fitter.fit(torch.as_tensor(marks, dtype=torch.float32)[None], focal, principal)
        verts = fit.verts_mm[0].double().numpy()
        return Prediction(
            verts, self._faces, model_landmarks(self._model, verts), self._model.name == "prior", _double(fit.camera)
        )


class MeanFace:
    """The shipped prior's mean face, posed by landmarks where there are any: what every method is compared with.

    Args:
        landmarks: where landmarks come from, or None to do without pose.
        fov_deg: see `LandmarkBaseline`.
    """

    name = "mean face"

    def __init__(self, landmarks: LandmarkSource | None = None, fov_deg: float = 0.0):
        prior = load_prior()
        still = replace(
            prior,
            identity=torch.zeros_like(prior.identity[:1]),
            expression=prior.expression[:0],
            expression_bounds=prior.expression_bounds[:0],
        )
        self._posed = LandmarkBaseline(self.name, still, landmarks, fov_deg) if landmarks else None
        verts = prior.mean.double().numpy()
        self._mean = Prediction(verts, prior.faces.numpy(), model_landmarks(prior, verts), in_prior_topology=True)

    def __call__(self, face: TrueFace) -> Prediction:
        """Returns the mean face, without a pose where no landmarks are found."""
        posed = self._posed(face) if self._posed else None
        return self._mean if posed is None else replace(self._mean, camera=posed.camera)


class EosBaseline:
    """The eos library's landmark fit of the Surrey Face Model with its default settings (Huber et al., VISAPP 2016).

    Args:
        sfm: path of sfm_shape_3448.bin; its companions lie beside it.
        landmarks: where landmarks come from.

    Attributes:
        to_canonical: similarity from eos's frame to canonical face space.

    Raises:
        ConfigError: eos is not installed, or a file is missing.
    """

    name = "eos"

    def __init__(self, sfm: Path, landmarks: LandmarkSource):
        try:
            import eos
        except ImportError as error:
            raise ConfigError("baselines name eos, expected the package eos-py to be installed") from error
        folder = sfm.parent
        self._eos: Any = eos
        self._landmarks = landmarks
        self._model = load_model(str(sfm))
        try:
            shape = eos.morphablemodel.load_model(str(sfm)).get_shape_model()
            self._morphable = eos.morphablemodel.MorphableModel(
                shape,
                eos.morphablemodel.load_blendshapes(str(folder / "expression_blendshapes_3448.bin")),
                color_model=eos.morphablemodel.PcaModel(),
                vertex_definitions=None,
            )
            self._mapper = eos.core.LandmarkMapper(str(folder / "ibug_to_sfm.txt"))
            self._topology = eos.morphablemodel.load_edge_topology(str(folder / "sfm_3448_edge_topology.json"))
            self._contour = eos.fitting.ContourLandmarks.load(str(folder / "ibug_to_sfm.txt"))
            self._model_contour = eos.fitting.ModelContour.load(str(folder / "sfm_model_contours.json"))
        except RuntimeError as error:
            raise ConfigError(f"sfm {str(sfm)!r} and the files beside it do not serve eos: {error}") from error
        mean = np.array(shape.get_mean(), dtype=np.float64).reshape(-1, 3)
        self.to_canonical = similarity(mean, self._model.mean.double().numpy())

    def fit(self, landmarks: Float[np.ndarray, "68 2"], width: int, height: int) -> tuple[np.ndarray, Any]:
        """Returns eos's vertices (3448, 3) in its own frame, and its rendering parameters.

        Args:
            landmarks: in pixels.
            width: of the picture.
            height: of the picture.
        """
        points = [self._eos.core.Landmark(str(i + 1), p.astype(np.float32)) for i, p in enumerate(landmarks)]
        mesh, rendering, _, _ = self._eos.fitting.fit_shape_and_pose(
            self._morphable, points, self._mapper, width, height, self._topology, self._contour, self._model_contour
        )
        return np.array(mesh.vertices, dtype=np.float64)[:, :3], rendering

    def __call__(self, face: TrueFace) -> Prediction | None:
        """Returns eos's face in canonical space, with a camera whose rotation is eos's."""
        marks = self._landmarks(face)
        if marks is None or face.photo is None:
            return None
        height, width = face.photo.image.shape[:2]
        raw, rendering = self.fit(marks, width, height)
        scale, turn, shift = self.to_canonical
        verts = scale * raw @ turn.T + shift
        # eos's camera is a scaled orthography that looks along -z with y up. Seen from far away a perspective camera
        # is the same; far away is a thousand times the face's size.
        view = np.array(rendering.get_modelview(), dtype=np.float64)
        projection = np.array(rendering.get_projection(), dtype=np.float64)
        R = np.array(FRONTAL) @ view[:3, :3] @ turn.T
        px_per_raw = projection[0, 0] * width / 2
        depth = 1e6
        focal = px_per_raw / scale * depth
        raw_origin = np.linalg.solve(scale * turn, -shift)
        origin = np.array(FRONTAL) @ (view[:3, :3] @ raw_origin + view[:3, 3])
        clip = projection[:2, 3] * np.array([1.0, -1.0])
        centre = np.array([width / 2, height / 2]) + clip * np.array([width, height]) / 2
        T = np.array([*(origin[:2] * scale), depth])
        camera = Camera(
            torch.from_numpy(R)[None],
            torch.from_numpy(T)[None],
            torch.tensor([focal]),
            torch.from_numpy(centre)[None],
        )
        return Prediction(verts, self._model.faces.numpy(), model_landmarks(self._model, verts), camera=camera)


def chosen_methods(config: EvaluateShapeConfig) -> list[Method]:
    """Returns the mean face and the baselines that the configuration asks for."""
    source = LandmarkSource(config.landmarks, config.landmark_noise_px, config.seed)
    methods: list[Method] = [MeanFace(source, config.fov_deg)]
    for name in config.chosen_baselines:
        if name == "eos":
            methods.append(EosBaseline(Path(config.sfm), source))
        elif name == "sfm":
            methods.append(LandmarkBaseline("landmark fit, SFM", load_model(config.sfm), source, config.fov_deg))
        else:
            methods.append(LandmarkBaseline("landmark fit, prior", load_prior(), source, config.fov_deg))
    return methods


def _focal_and_principal(face: TrueFace, fov_deg: float) -> tuple[torch.Tensor, torch.Tensor]:
    assert face.photo is not None
    if fov_deg == 0 and face.photo.camera is not None:
        return face.photo.camera.focal_px.float(), face.photo.camera.principal_px.float()
    height, width = face.photo.image.shape[:2]
    size = torch.tensor([[float(width), float(height)]])
    return focal_from_fov(fov_deg or EvaluateShapeConfig.fov_deg, size.amax(dim=1)), size / 2


def _double(camera: Camera) -> Camera:
    return Camera(camera.R.double(), camera.T.double(), camera.focal_px.double(), camera.principal_px.double())
