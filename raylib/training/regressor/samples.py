"""Training faces for the network that corrects landmark fits, prepared once and kept in memory-mapped files.

A sample holds what the reconstruction would see of a face (crop, label map, the fit of dlib's landmarks) and, of
synthetic faces, the truth. Detection, fit and segmentation are the job's own: the network learns their errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raylib.config import FaceSettings, FitSettings
from raylib.detection.alignment import CROP_PX, crop_face
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.fitting.crop_space import CropFit
from raylib.fitting.estimates import FaceBatch
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import Camera, focal_from_fov
from raylib.morphable.model import LinearFaceModel
from raylib.regressor.predictor import INPUT_PX, crop_fit
from raylib.segmentation.segmenter import FaceSegmenter

_MIN_FOV_DEG, _MAX_FOV_DEG = 18.0, 45.0


@dataclass(frozen=True)
class LabelledFace:
    """A photograph or a synthetic face before detection.

    Attributes:
        rgb: the picture, sRGB.
        landmarks: about where the face is: 68 points, or None to look for it in the whole picture.
        camera: true camera with the true pose of this one face, None where it is not known.
        verts_mm: true vertices in the model's topology, or None.
        albedo: true albedo, linear RGB, or None.
        light_sh: true light, or None.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    landmarks: Float[np.ndarray, "68 2"] | None = None
    camera: Camera | None = None
    verts_mm: Float[np.ndarray, "v 3"] | None = None
    albedo: Float[np.ndarray, "v 3"] | None = None
    light_sh: Float[np.ndarray, "9 3"] | None = None


@dataclass(frozen=True)
class FaceTruth:
    """What is known of a batch of samples; only rows with `known` count.

    Attributes:
        camera: true pose and camera of the crop, whose side is 1.
        verts_mm: vertices in canonical space.
        albedo: linear RGB.
        light_sh: spherical harmonics of the light.
        known: 1 for synthetic faces, 0 for photographs.
    """

    camera: Camera
    verts_mm: Float[Tensor, "b v 3"]
    albedo: Float[Tensor, "b v 3"]
    light_sh: Float[Tensor, "b 9 3"]
    known: Float[Tensor, " b"]


@dataclass(frozen=True)
class FaceSampleBatch:
    """Some samples, as tensors.

    Attributes:
        images: crops, sRGB.
        labels: label maps.
        fit: landmark fits in the crops.
        truth: what is known of the faces.
    """

    images: UInt8[Tensor, "b s s 3"]
    labels: UInt8[Tensor, "b s s"]
    fit: CropFit
    truth: FaceTruth


def _shapes(model: LinearFaceModel) -> dict[str, tuple[tuple[int, ...], str]]:
    v, k, e = len(model.mean), len(model.identity), len(model.expression)
    camera = {"R": ((3, 3), "f4"), "T": ((3,), "f4"), "focal": ((), "f4"), "principal": ((2,), "f4")}
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "image": ((INPUT_PX, INPUT_PX, 3), "u1"),
        "labels": ((INPUT_PX, INPUT_PX), "u1"),
        "identity": ((k,), "f4"),
        "expression": ((e,), "f4"),
        "landmarks": ((68, 2), "f4"),
        "fitted": ((68, 2), "f4"),
        "known": ((), "f4"),
        "shape": ((v, 3), "f2"),  # from the mean face, so that half precision is a hundredth of a millimetre
        "albedo": ((v, 3), "f2"),
        "light": ((9, 3), "f4"),
        "group": ((), "i8"),
    }
    for name, shape in camera.items():
        shapes[f"fit_{name}"] = shapes[f"true_{name}"] = shape
    return shapes


class SampleMaker:
    """Makes samples of pictures: detects, fits, crops and segments as the reconstruction does.

    Args:
        model: the face model.
        device: where segmentation runs.
    """

    def __init__(self, model: LinearFaceModel, device: str = "cpu"):
        self.model = model
        self._detector = FaceDetector(FaceSettings(detector="hog"))
        self._fitter = LandmarkFitter(model, FitSettings())
        self._segmenter = FaceSegmenter(device=device)

    def __call__(
        self, pictures: Sequence[LabelledFace], groups: Sequence[int], seed: tuple[int, ...] = (0,)
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of the samples of these pictures; pictures without a face are left out.

        Args:
            pictures: photographs or synthetic faces.
            groups: a number for each, kept beside the sample.
            seed: of detection boxes and assumed focal lengths.
        """
        rng = np.random.default_rng(seed)
        found = []
        for picture, group in zip(pictures, groups, strict=True):
            marks = self._landmarks(picture, rng)
            if marks is not None:
                found.append((picture, group, marks))
        if not found:
            return {}
        crops = [crop_face(p.rgb, marks, CROP_PX) for p, _, marks in found]
        faces = FaceBatch(
            landmarks_px=torch.from_numpy(np.stack([marks for _, _, marks in found])),
            focal_px=torch.tensor([_focal(p, rng) for p, _, _ in found]),
            principal_px=torch.tensor([[p.rgb.shape[1] / 2, p.rgb.shape[0] / 2] for p, _, _ in found]),
            crops=np.stack([c.rgb for c in crops]),
            crop_to_photo=np.stack([c.to_photo for c in crops]),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported()):
            labels = self._segmenter.segment(faces.crops)
        fit = crop_fit(faces, self._fitter.fit(faces.landmarks_px, faces.focal_px, faces.principal_px))
        known = [p.camera is not None for p, _, _ in found]
        camera = _join([p.camera if p.camera is not None else _blank() for p, _, _ in found])
        truth = faces.crop_camera(camera, 1)
        mean = self.model.mean.numpy()
        no_surface, no_light = np.zeros_like(mean), np.zeros((9, 3), np.float32)
        arrays = {
            "image": np.stack([crop_face(p.rgb, marks, INPUT_PX).rgb for p, _, marks in found]),
            "labels": labels[:, ::2, ::2] if labels.shape[1] == 2 * INPUT_PX else labels,
            "identity": fit.identity,
            "expression": fit.expression,
            "landmarks": fit.landmarks,
            "fitted": fit.fitted,
            "known": np.array(known, np.float32),
            "shape": np.stack([no_surface if p.verts_mm is None else p.verts_mm - mean for p, _, _ in found]),
            "albedo": np.stack([no_surface if p.albedo is None else p.albedo for p, _, _ in found]),
            "light": np.stack([no_light if p.light_sh is None else p.light_sh for p, _, _ in found]),
            "group": np.array([g for _, g, _ in found]),
        }
        for prefix, c in (("fit", fit.camera), ("true", truth)):
            parts = {"R": c.R, "T": c.T, "focal": c.focal_px, "principal": c.principal_px}
            arrays |= {f"{prefix}_{name}": value for name, value in parts.items()}
        return {name: np.asarray(value) for name, value in arrays.items()}

    def _landmarks(self, picture: LabelledFace, rng: np.random.Generator) -> Float[np.ndarray, "68 2"] | None:
        """Returns dlib's landmarks, None where there is no face or they do not fit the one that is known."""
        faces = self._detector(picture.rgb)
        if picture.landmarks is None:
            return faces[0].landmarks if faces else None
        low, high = picture.landmarks.min(0), picture.landmarks.max(0)
        centre, side = (low + high) / 2, float((high - low).max())
        near = [f for f in faces if np.linalg.norm(f.landmarks.mean(0) - picture.landmarks.mean(0)) < 0.3 * side]
        if near:
            return near[0].landmarks
        # The CNN would find it; it costs a second, a box about where it would be nothing.
        box_centre = centre + rng.normal(0, 0.04, 2) * side
        half = 0.5 * side * float(np.exp(rng.normal(0, 0.08)))
        box = np.concatenate([box_centre - half, box_centre + half]).astype(np.float32)
        marks, spread = self._detector.landmarks(picture.rgb, box)
        off = float(np.linalg.norm(marks[17:] - picture.landmarks[17:], axis=1).mean()) / side
        return marks if spread < 0.06 and off < 0.15 else None


def _focal(picture: LabelledFace, rng: np.random.Generator) -> float:
    """Returns the focal length that the job would use: known for a third, else from an assumed angle of view."""
    longer = torch.tensor([float(max(picture.rgb.shape[:2]))])
    if picture.camera is None:
        return float(focal_from_fov(30.0, longer))
    if rng.random() < 1 / 3:
        return float(picture.camera.focal_px)
    fov = float(np.exp(rng.uniform(np.log(_MIN_FOV_DEG), np.log(_MAX_FOV_DEG))))
    return float(focal_from_fov(30.0 if rng.random() < 0.5 else fov, longer))


def _blank() -> Camera:
    return Camera(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1), torch.zeros(1, 2))


def _join(cameras: Sequence[Camera]) -> Camera:
    def column(name: str) -> Tensor:
        return torch.cat([getattr(camera, name) for camera in cameras])

    return Camera(column("R"), column("T"), column("focal_px"), column("principal_px"))


class FaceSamples:
    """Samples in a folder, read where they are used.

    Args:
        folder: made by `write_samples`.
        model: the face model that they were made with.

    Raises:
        ConfigError: the folder holds no samples of this model.
    """

    def __init__(self, folder: str | Path, model: LinearFaceModel):
        folder = Path(folder)
        record = folder / "samples.json"
        if not record.is_file():
            raise ConfigError(f"samples are looked for in {folder}, expected samples.json and arrays there")
        saved = json.loads(record.read_text())
        if saved["model_sha256"] != model.sha256:
            made = saved["model_sha256"][:12]
            raise ConfigError(
                f"samples in {folder} were made with the face model {made}, expected {model.sha256[:12]}"
            )
        self.model, self.count = model, int(saved["count"])
        self._arrays: dict[str, np.ndarray] = {}
        for name, (shape, kind) in _shapes(model).items():
            self._arrays[name] = np.memmap(folder / f"{name}.bin", kind, "r", shape=(self.count, *shape))

    def __len__(self) -> int:
        return self.count

    @property
    def groups(self) -> Int[np.ndarray, " n"]:
        """The number that each sample was given."""
        return np.asarray(self._arrays["group"])

    def batch(self, index: Int[np.ndarray, " b"]) -> FaceSampleBatch:
        """Returns some samples."""
        a: dict[str, Tensor] = {}
        for name, array in self._arrays.items():
            value = torch.from_numpy(np.array(array[index]))
            a[name] = value.float() if value.dtype == torch.float16 else value
        fit_camera = Camera(a["fit_R"], a["fit_T"], a["fit_focal"], a["fit_principal"])
        fit = CropFit(fit_camera, a["identity"], a["expression"], a["landmarks"], a["fitted"])
        true_camera = Camera(a["true_R"], a["true_T"], a["true_focal"], a["true_principal"])
        truth = FaceTruth(true_camera, self.model.mean + a["shape"], a["albedo"], a["light"], a["known"])
        return FaceSampleBatch(a["image"], a["labels"], fit, truth)

    def mean_albedo(self) -> Float[Tensor, "v 3"]:
        """Returns the geometric mean of the synthetic faces' albedo."""
        known = np.flatnonzero(np.asarray(self._arrays["known"]))[:2000]
        if not len(known):
            raise ConfigError("samples hold no synthetic face, expected some for the average albedo")
        albedo = torch.from_numpy(np.asarray(self._arrays["albedo"])[known]).float()
        return albedo.clamp(min=0.01).log().mean(0).exp()


def written_samples(folder: Path) -> tuple[int, int]:
    """Returns how many samples a folder holds, and of how many groups of pictures they are."""
    record = folder / "samples.json"
    saved = json.loads(record.read_text()) if record.is_file() else {"count": 0, "groups": 0}
    return int(saved["count"]), int(saved["groups"])


def write_samples(groups: Iterable[dict[str, np.ndarray]], model: LinearFaceModel, folder: Path) -> int:
    """Writes the samples of groups of pictures behind those that a folder holds; returns how many it holds then.

    The folder is usable at any time: what it counts is whole, and a run that was killed goes on behind it.

    Args:
        groups: what a `SampleMaker` made of each group, from the first on that is not there yet.
        model: the face model that they were made with.
        folder: where the arrays go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, done = written_samples(folder)
    shapes = _shapes(model)
    sizes = {name: int(np.dtype(kind).itemsize * np.prod(shape, dtype=int)) for name, (shape, kind) in shapes.items()}
    for group, arrays in enumerate(groups, done + 1):
        if arrays:
            for name, (shape, kind) in shapes.items():
                data: Any = np.ascontiguousarray(arrays[name].astype(kind)).reshape(-1, *shape)
                path = folder / f"{name}.bin"
                path.touch()
                with path.open("r+b") as file:
                    file.seek(count * sizes[name])
                    file.write(data.tobytes())
            count += len(arrays["known"])
        partial = folder / "samples.partial"
        partial.write_text(json.dumps({"count": count, "groups": group, "model_sha256": model.sha256}))
        partial.replace(folder / "samples.json")
    return count
