"""From photograph to mesh, composed once: detect, crop, segment, fit, correct, refine, judge, colour, encode.

`FaceReconstructor` is the way in from Python. `FacePipeline` is what it and the stages of the reconstruction job
share: the steps from faces that were found to faces with colours. Neither needs Ray.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFilter

from raylib.config import FaceSettings, FitSettings, ReconstructConfig
from raylib.detection.alignment import CROP_PX, FoundFace, Patch, crop_face, cut_faces
from raylib.detection.detector import Face, FaceDetector
from raylib.errors import ConfigError, RaylibError
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import FRONTAL, Camera, focal_from_fov
from raylib.geometry.mesh import vertex_normals
from raylib.io.meshes import MeshEncoder
from raylib.io.photo import Photo, PhotoSource, load_image
from raylib.metrics.quality import Evidence, Quality, picture_evidence
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.morphable.readers import load_model
from raylib.paper.method import PaperMethod
from raylib.refinement.refiner import Refinement, Refiner
from raylib.regressor.predictor import FaceNetwork
from raylib.segmentation.labels import Label, brow_band, face_mask
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.texture.preview import PreviewMesh, preview
from raylib.texture.texturer import Appearance, FaceColors, FaceMask, TextureLayout, Texturer

_GREY_PX = 4  # edge of the texture that stands for one that privacy keeps out
_GPU_BATCH = 16  # photographs whose faces a GPU sees together
SUFFIXES = (".glb", ".obj", ".ply", ".npz", ".png")
"""Endings of the files that `ReconstructedFace.save` writes."""


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


class NoFaceFitsError(RaylibError):
    """What the detector took for a face cannot be one."""


@dataclass(frozen=True)
class PhotographedFace:
    """A face that was found, and what of its photograph the camera depends on.

    Attributes:
        found: the face with crop and patch.
        width, height: of the photograph, pixels.
        focal_px: focal length where it is known.
    """

    found: FoundFace
    width: int
    height: int
    focal_px: float | None = None


@dataclass(frozen=True)
class FittedFace:
    """What a face's estimate comes to.

    Attributes:
        estimate: a batch of one.
        appearance: albedo and shading of its vertices, None without light.
        transfer: self-shadow of its vertices (see `lighting`), None without light.
        figures: `photometric_psnr`, `photometric_psnr_before` and `landmark_nme_before` where there is light.
    """

    estimate: FaceEstimates
    appearance: Appearance | None
    transfer: Float[np.ndarray, "v 9"] | None
    figures: dict[str, float]


@dataclass(frozen=True)
class ColoredFace:
    """A face that is ready to be encoded.

    Attributes:
        found: the face with crop and patch.
        fitted: its estimate.
        colors: texture and vertex colours.
        normals: unit vertex normals in canonical space.
        verts_cam: vertices in camera space, millimetres.
        patch_camera: projects to pixels of the patch.
        encoder: of the mesh's topology.
    """

    found: FoundFace
    fitted: FittedFace
    colors: FaceColors
    normals: Float[np.ndarray, "v 3"]
    verts_cam: Float[np.ndarray, "v 3"]
    patch_camera: Camera
    encoder: MeshEncoder

    @property
    def verts_mm(self) -> Float[np.ndarray, "v 3"]:
        """Vertices in canonical space, millimetres."""
        return self.fitted.estimate.verts_mm[0].numpy()

    def without_pixels(self) -> ColoredFace:
        """Returns the face with plain grey in the place of what the photograph shows."""
        grey = np.full((_GREY_PX, _GREY_PX, 3), 128, np.uint8)
        plain = np.full_like(self.colors.vertex_colors, 128 / 255)
        return replace(self, colors=replace(self.colors, texture=grey, vertex_colors=plain))

    def physics(self) -> dict[str, np.ndarray]:
        """Returns what a GLB carries of albedo, light and uncertainty; nothing where there is no light."""
        estimate, appearance = self.fitted.estimate, self.fitted.appearance
        if appearance is None or estimate.light_sh is None:
            return {}
        light = estimate.light_sh[0].numpy()
        physics = {"albedo": appearance.albedo, "shading": appearance.shading, "light_sh": light}
        return physics if estimate.sigma_mm is None else physics | {"sigma_mm": estimate.sigma_mm[0].numpy()}

    def texture_png(self) -> bytes:
        """Returns the texture as a PNG."""
        return png(Image.fromarray(self.colors.texture))

    def obj(self, name: str, texture_png: bytes, lit: bool) -> dict[str, bytes]:
        """Returns texture, material library and OBJ by their endings, the OBJ last.

        Args:
            name: of the files, without ending.
            texture_png: texture image.
            lit: whether viewers shall light the texture, which then is albedo.
        """
        return {
            ".png": texture_png,
            ".mtl": self.encoder.mtl(f"{name}.png", lit=lit),
            ".obj": self.encoder.obj(self.verts_mm, self.colors.vertex_colors, f"{name}.mtl"),
        }

    def glb(self, name: str, texture_png: bytes, physics: dict[str, np.ndarray]) -> bytes:
        """Returns the face as a GLB; see `MeshEncoder.glb`."""
        colors = self.colors
        return self.encoder.glb(
            self.verts_mm, self.normals, colors.vertex_colors, colors.vertex_visibility, texture_png, name, physics
        )

    def ply(self) -> bytes:
        """Returns the face as a PLY; see `MeshEncoder.ply`."""
        return self.encoder.ply(self.verts_mm, self.normals, self.colors.vertex_colors)

    def preview(self) -> Image.Image:
        """Returns the picture with landmarks, overlay and rendered views; see `texture.preview`."""
        projected = self.patch_camera.project(self.fitted.estimate.verts_mm)[0].numpy()
        mesh = PreviewMesh(
            self.verts_mm,
            self.normals,
            np.concatenate([projected, self.verts_cam[:, 2:]], axis=1),
            self.encoder.faces,
            self.encoder.uv,
            self.colors.texture,
            None if self.fitted.appearance is None else self.fitted.appearance.shading,
            self.fitted.transfer,
        )
        patch = self.found.patch
        return preview(patch.rgb, (self.found.face.landmarks - patch.corner_px) / patch.scale, mesh)


class FacePipeline:
    """The steps from found faces to coloured ones, with networks loaded and all that depends on the topology alone.

    Args:
        method: how a face becomes a mesh.
        config: what the steps read of the reconstruction's settings.
    """

    def __init__(self, method: Estimator, config: ReconstructConfig):
        model = method.model
        self.method, self.config = method, config
        layout = TextureLayout.of(
            model.mean.numpy(),
            model.faces.numpy(),
            None if model.uv is None else model.uv.numpy(),
            None if model.mirror_verts is None else model.mirror_verts.numpy(),
        )
        self._texturer = Texturer(layout, config.max_texture_px)
        self._refiner = Refiner(model, config.fit)
        device = "cuda" if config.gpus_per_actor and torch.cuda.is_available() else "cpu"
        self._segmenter = FaceSegmenter(device=device) if config.segment else None
        self._encoder = MeshEncoder(layout.faces, layout.uv)
        self._quality = Quality()

    def batch(
        self, faces: Sequence[PhotographedFace], labels: Sequence[UInt8[np.ndarray, "s s"] | None]
    ) -> FaceBatch:
        """Returns faces as the method sees them."""
        size = torch.tensor([[face.width, face.height] for face in faces], dtype=torch.float32)
        assumed = focal_from_fov(self.config.fov_deg, size.amax(dim=1))
        maps = [label_map for label_map in labels if label_map is not None]
        return FaceBatch(
            torch.from_numpy(np.stack([face.found.face.landmarks for face in faces])),
            torch.tensor([face.focal_px or float(f) for face, f in zip(faces, assumed, strict=True)]),
            size / 2,
            np.stack([face.found.crop.rgb for face in faces]),
            np.stack([face.found.crop.to_photo for face in faces]),
            np.stack(maps) if maps else None,
        )

    def labels(self, faces: Sequence[PhotographedFace]) -> list[UInt8[np.ndarray, "s s"] | None]:
        """Returns each face's label map, on its aligned crop; None without segmentation."""
        if self._segmenter is None or not faces:
            return [None] * len(faces)
        return list(self._segmenter.segment(np.stack([face.found.crop.rgb for face in faces])))

    def fit(self, faces: FaceBatch) -> FaceEstimates:
        """Returns the method's estimates."""
        return self.method(faces)

    def light(self, faces: FaceBatch, batch: FaceEstimates, steps: int) -> Refinement | None:
        """Returns the faces with their light on them after so many steps; None where there is no light."""
        if not steps and batch.light_sh is None:
            return None
        return self._refiner(faces, batch, steps)

    def estimate(
        self,
        faces: Sequence[PhotographedFace],
        labels: Sequence[UInt8[np.ndarray, "s s"] | None],
        refine: int | None = None,
        lap: Callable[[str], None] = lambda stage: None,
    ) -> list[FittedFace | NoFaceFitsError]:
        """Returns the estimate of each face of a batch, refined if so configured, or that no face fits.

        Args:
            faces: as they were found.
            labels: their label maps.
            refine: steps; the configuration's by default.
            lap: told each stage that is done, fit and refine.
        """
        seen = self.batch(faces, labels)
        batch = self.fit(seen)
        usable = batch.usable().tolist()
        lap("fit")
        lit = self.light(seen, batch, self.config.refine if refine is None else refine)
        if lit is not None:
            lap("refine")
        bad = NoFaceFitsError("the landmarks fit no face before the camera")
        return [_one(batch, lit, n) if fine else bad for n, fine in enumerate(usable)]

    def quality(self, found: FoundFace, fitted: FittedFace) -> float:
        """Returns the probability that a reconstruction shows the one face that the photograph holds."""
        return self._quality(evidence(found, fitted))

    def color(self, found: FoundFace, fitted: FittedFace, labels: UInt8[np.ndarray, "s s"] | None) -> ColoredFace:
        """Returns a fitted face with the photograph's colours."""
        estimate, camera = fitted.estimate, fitted.estimate.camera
        normals = vertex_normals(estimate.verts_mm, self.method.model.faces)
        verts_cam = camera.to_camera(estimate.verts_mm)[0].numpy()
        patch_camera = _patch_camera(camera, found)
        colors = self._texturer(
            found.patch.rgb,
            verts_cam,
            (normals @ camera.R.transpose(1, 2))[0].numpy(),
            float(patch_camera.focal_px),
            patch_camera.principal_px[0].numpy(),
            _mask(found, labels),
            fitted.appearance,
        )
        return ColoredFace(found, fitted, colors, normals[0].numpy(), verts_cam, patch_camera, self._encoder)

    def warm_up(self) -> None:
        """Does a face that is not there, so that no image's time goes into compiling kernels and loading networks."""
        prior = load_prior()
        camera = Camera(
            torch.tensor([FRONTAL]),
            torch.tensor([[0.0, 0.0, 700.0]]),
            torch.tensor([700.0]),
            torch.tensor([[128.0, 128.0]]),
        )
        landmarks = camera.project(prior.mean[prior.landmark_verts])[0].numpy()
        grey = np.full((256, 256, 3), 128, np.uint8)
        face = Face(np.array([50.0, 50.0, 200.0, 250.0]), 1.0, "hog", landmarks, 0.0)
        found = FoundFace(face, crop_face(grey, landmarks, CROP_PX), Patch(grey, np.zeros(2), 1.0))
        faces = [PhotographedFace(found, 256, 256)]
        labels = self.labels(faces)
        (fitted,) = self.estimate(faces, labels)
        if isinstance(fitted, FittedFace):
            self.color(found, fitted, labels[0])


def evidence(found: FoundFace, face: FittedFace) -> Evidence:
    """Returns what speaks for and against a fitted face."""
    marks = found.crop.points_from_photo(found.face.landmarks)
    strange = face.estimate.strangeness
    return Evidence(
        found.face.detector,
        found.face.score,
        found.face.landmark_spread,
        found.face.mirror_error,
        float(face.estimate.error_iod),
        *picture_evidence(found.crop.rgb, marks),
        face.figures.get("photometric_psnr_before"),
        None if strange is None else float(strange),
    )


def png(image: Image.Image) -> bytes:
    """Returns an image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # a third of the default's time, a sixth more bytes
    return buffer.getvalue()


def _one(batch: FaceEstimates, lit: Refinement | None, n: int) -> FittedFace:
    """Returns face n of a batch."""
    one = slice(n, n + 1)
    if lit is None:
        return FittedFace(batch.select(one), None, None, {})
    estimate, transfer = lit.estimates.select(one), lit.transfer[one]
    assert estimate.albedo is not None and estimate.light_sh is not None
    shading = (transfer @ estimate.light_sh).clamp(min=0)
    appearance = Appearance(estimate.albedo[0].cpu().numpy(), shading[0].cpu().numpy())
    figures = {
        "photometric_psnr": float(lit.psnr[n]),
        "photometric_psnr_before": float(lit.psnr_before[n]),
        "landmark_nme_before": float(lit.error_iod_before[n]),
    }
    return FittedFace(estimate, appearance, transfer[0].cpu().numpy(), figures)


def _mask(found: FoundFace, labels: np.ndarray | None) -> FaceMask | None:
    """Returns where the face's patch shows the bare face; its edge, where colours mix, is left out softly."""
    if labels is None:
        return None
    points = found.crop.points_from_photo(found.face.landmarks)
    share = face_mask(labels) | (labels == Label.HAIR) & brow_band(points, labels.shape)
    inner = Image.fromarray(share).convert("L").filter(ImageFilter.MinFilter(7)).filter(ImageFilter.BoxBlur(2))
    soft = np.asarray(inner, dtype=np.float32) / 255.0
    # photograph -> crop, after patch -> photograph
    linear = np.linalg.inv(found.crop.to_photo[:, :2])
    offset = linear @ (found.patch.corner_px - found.crop.to_photo[:, 2])
    from_patch = np.concatenate([linear * found.patch.scale, offset[:, None]], axis=1)
    return FaceMask(soft, from_patch)


def _patch_camera(camera: Camera, found: FoundFace) -> Camera:
    """Returns the camera that projects to pixels of the face's patch."""
    corner = torch.from_numpy(found.patch.corner_px).to(camera.principal_px)
    scale = found.patch.scale
    return Camera(camera.R, camera.T, camera.focal_px / scale, (camera.principal_px - corner) / scale)


@dataclass(frozen=True)
class ReconstructedFace:
    """One face of a photograph as a mesh with appearance; v vertices, f triangles, the same for all of a model.

    Attributes:
        verts_mm: vertices in canonical face space, millimetres: +x to the subject's left, +y up, +z out of the face.
        faces: triangles, counter-clockwise seen from outside.
        uv: texture coordinates of the vertices, (0, 0) at the bottom left.
        vertex_colors: the photograph's colours, sRGB 0..1.
        texture: texture image, sRGB: albedo where it is estimated, else the photograph's colours.
        albedo: share of light that each vertex reflects, linear RGB; None where there is no light.
        light_sh: spherical-harmonic light in canonical face space; None where the method estimates none.
        sigma_mm: standard deviation of each vertex, millimetres; None where the method estimates none.
        camera: pinhole camera of the photograph with the face's pose, a batch of one: `R` (1, 3, 3), `T` (1, 3) in
            millimetres, `focal_px` (1,), `principal_px` (1, 2); `camera.project` gives pixels.
        landmarks_68: detected landmarks (Multi-PIE order) in the photograph's pixels, pixel centres at .5.
        face_box: left, top, right, bottom in pixels.
        quality: probability that the reconstruction shows the one face as it is, 0..1.
        status: `ok`, or `low_quality` where `quality` is less than `faces.min_quality`.
    """

    verts_mm: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    vertex_colors: Float[np.ndarray, "v 3"]
    texture: UInt8[np.ndarray, "s s 3"]
    albedo: Float[np.ndarray, "v 3"] | None
    light_sh: Float[np.ndarray, "9 3"] | None
    sigma_mm: Float[np.ndarray, " v"] | None
    camera: Camera
    landmarks_68: Float[np.ndarray, "68 2"]
    face_box: Float[np.ndarray, " 4"]
    quality: float
    status: Literal["ok", "low_quality"]
    _face: ColoredFace = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the face in the format that the path's ending names; what is there is replaced.

        - `.glb`: metres, with texture, albedo, light and uncertainty.
        - `.obj`: millimetres, with a `.mtl` and the texture as `.png` beside it.
        - `.ply`: millimetres, with normals and vertex colours.
        - `.npz`: all attributes by name but those that are None; the camera as `R`, `T_mm`, `focal_px` and
          `principal_px`.
        - `.png`: a preview with landmarks, overlay and views.

        A face of low quality is written like any other: look at `status` first.

        Args:
            path: local file in a folder that exists.

        Raises:
            ConfigError: another ending, or no such folder.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ConfigError(f"path is {str(path)!r}, expected a file that ends in one of {', '.join(SUFFIXES)}")
        if not path.parent.is_dir():
            raise ConfigError(f"path is {str(path)!r}, expected a file in a folder that exists: {path.parent}")
        for ending, content in self._encoded(suffix, path.stem).items():
            (path if ending == suffix else path.with_suffix(ending)).write_bytes(content)

    def _encoded(self, suffix: str, name: str) -> dict[str, bytes]:
        """Returns the files by their endings."""
        face, physics = self._face, self._face.physics()
        if suffix == ".obj":
            return face.obj(name, face.texture_png(), lit=bool(physics))
        if suffix == ".glb":
            return {suffix: face.glb(name, face.texture_png(), physics)}
        if suffix == ".ply":
            return {suffix: face.ply()}
        if suffix == ".png":
            return {suffix: png(face.preview())}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self._arrays())
        return {suffix: buffer.getvalue()}

    def _arrays(self) -> dict[str, Any]:
        names = ["verts_mm", "faces", "uv", "vertex_colors", "texture", "albedo", "light_sh", "sigma_mm"]
        names += ["landmarks_68", "face_box", "quality", "status"]
        values = {name: getattr(self, name) for name in names}
        camera = {
            "R": self.camera.R[0].numpy(),
            "T_mm": self.camera.T[0].numpy(),
            "focal_px": float(self.camera.focal_px),
            "principal_px": self.camera.principal_px[0].numpy(),
        }
        return {name: value for name, value in (values | camera).items() if value is not None}


class FaceReconstructor:
    """Reconstructs the faces of photographs; detector and networks are loaded once, when this is made.

    The options are those of the reconstruction job, with the same meanings and defaults, and so are the results.

    Args:
        device: `cpu` or `cuda`, where the networks run.
        method: how a face becomes a mesh: `meshnet`, `landmarks` or `meshnet_paper`.
        meshnet_weights: file of a trained network; method `meshnet` takes the shipped one by default.
        refine: steps by which each face follows what a rendering differs from the photograph.
        morphable_model: `prior` for the shipped one, or the path of another model for method `landmarks`.
        faces: how faces are looked for, and which are of low quality.
        fit: how the model is fitted to landmarks.
        fov_deg: angle that the photograph's longer side is taken to see where its EXIF data do not tell.
        segment: label hair, skin and what covers them, and leave out of the colours what is not face.
        max_pixels: photographs with more pixels are refused where the model loads them.
        max_texture_px: largest side of a texture.

    Raises:
        ConfigError: an option or a model file does not fit; names the value and what was expected.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        method: Literal["landmarks", "meshnet", "meshnet_paper"] = "meshnet",
        meshnet_weights: str = "",
        refine: int = 0,
        morphable_model: str = "prior",
        faces: FaceSettings | None = None,
        fit: FitSettings | None = None,
        fov_deg: float = 30.0,
        segment: bool = True,
        max_pixels: int = 100_000_000,
        max_texture_px: int = 1024,
    ):
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"device is {device!r}, expected cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is 'cuda', expected cpu where torch finds no CUDA device")
        if method not in METHODS:
            raise ConfigError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        self._config = ReconstructConfig(
            "-", "-", method=method, meshnet_weights=meshnet_weights, refine=refine, morphable_model=morphable_model,
            faces=faces or FaceSettings(), fit=fit or FitSettings(), fov_deg=fov_deg, segment=segment,
            max_pixels=max_pixels, max_texture_px=max_texture_px, gpus_per_actor=float(device == "cuda"),
        )  # fmt: skip
        self._detector = FaceDetector(self._config.faces)
        self._pipeline = FacePipeline(load_method(self._config), self._config)

    def __call__(self, photo: Photo | PhotoSource, refine: int | None = None) -> list[ReconstructedFace]:
        """Returns the faces of a photograph, the largest first; an empty list where there is none.

        A face that is probably drawn, halved or turned too far is in the list with status `low_quality`; it has all
        attributes, and they are probably wrong. What no face fits at all is left out.

        Args:
            photo: from `load_image`, or what that takes.
            refine: steps for this photograph; the option `refine` by default.

        Raises:
            ImageError: the photograph cannot be read.
            ConfigError: `refine` does not fit the method.
        """
        return self.many([photo], refine)[0]

    def many(self, photos: Iterable[Photo | PhotoSource], refine: int | None = None) -> list[list[ReconstructedFace]]:
        """Returns the faces of each photograph, as calls one by one would; a GPU sees the faces of some together.

        Args:
            photos: from `load_image`, or what that takes.
            refine: steps; the option `refine` by default.

        Raises:
            ImageError: a photograph cannot be read.
            ConfigError: `refine` does not fit the method.
        """
        config = self._config if refine is None else replace(self._config, refine=refine)
        together = _GPU_BATCH if config.gpus_per_actor else 1
        results: list[list[ReconstructedFace]] = []
        waiting: list[list[PhotographedFace]] = []
        for photo in photos:
            waiting.append(
                self._found(photo if isinstance(photo, Photo) else load_image(photo, max_pixels=config.max_pixels))
            )
            if len(waiting) == together:
                results += self._reconstructed(waiting, config)
                waiting = []
        return results + self._reconstructed(waiting, config)

    def _found(self, photo: Photo) -> list[PhotographedFace]:
        height, width = photo.rgb.shape[:2]
        found = cut_faces(photo.rgb, self._detector(photo.rgb), self._config.max_texture_px)
        return [PhotographedFace(face, width, height, photo.focal_px) for face in found]

    def _reconstructed(
        self, photos: Sequence[Sequence[PhotographedFace]], config: ReconstructConfig
    ) -> list[list[ReconstructedFace]]:
        faces = [face for photo in photos for face in photo]
        labels = self._pipeline.labels(faces)
        fitted = [
            one
            for part in parts(len(faces), config)
            for one in self._pipeline.estimate(faces[part], labels[part], config.refine)
        ]
        made = iter(
            None if isinstance(one, NoFaceFitsError) else self._face(face.found, one, label_map)
            for face, one, label_map in zip(faces, fitted, labels, strict=True)
        )
        return [[face for _ in photo if (face := next(made)) is not None] for photo in photos]

    def _face(self, found: FoundFace, fitted: FittedFace, labels: np.ndarray | None) -> ReconstructedFace:
        face, estimate = self._pipeline.color(found, fitted, labels), fitted.estimate
        quality = self._pipeline.quality(found, fitted)
        return ReconstructedFace(
            verts_mm=face.verts_mm,
            faces=face.encoder.faces,
            uv=face.encoder.uv,
            vertex_colors=face.colors.vertex_colors,
            texture=face.colors.texture,
            albedo=None if fitted.appearance is None else fitted.appearance.albedo,
            light_sh=None if estimate.light_sh is None else estimate.light_sh[0].numpy(),
            sigma_mm=None if estimate.sigma_mm is None else estimate.sigma_mm[0].numpy(),
            camera=estimate.camera,
            landmarks_68=found.face.landmarks,
            face_box=found.face.face_box,
            quality=quality,
            status="ok" if quality >= self._config.faces.min_quality else "low_quality",
            _face=face,
        )


def parts(count: int, config: ReconstructConfig) -> list[slice]:
    """Returns which faces are estimated together.

    On a CPU one by one: in a batch the last bits of a face depend on its neighbours, and a run that was killed and
    continued has other neighbours. A GPU needs batches.
    """
    together = max(1, count) if config.gpus_per_actor else 1
    return [slice(n, n + together) for n in range(0, count, together)]
