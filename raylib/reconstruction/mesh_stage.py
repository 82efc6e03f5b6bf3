"""Second stage: faces to meshes, colours, pictures, files and rows."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from raylib.config import ReconstructConfig
from raylib.detection.alignment import crop_face
from raylib.detection.detector import Face
from raylib.errors import RaylibError
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.geometry.camera import FRONTAL, Camera, euler_deg, focal_from_fov
from raylib.geometry.mesh import vertex_normals
from raylib.io.meshes import MeshEncoder
from raylib.io.storage import Location
from raylib.metrics.quality import Evidence, Quality, picture_evidence
from raylib.morphable.model import load_prior
from raylib.reconstruction.detect_stage import CROP_PX, AnalysedImage, FoundFace, Patch
from raylib.reconstruction.methods import Estimator
from raylib.reconstruction.schema import STAGES
from raylib.refinement.refiner import Refinement, Refiner
from raylib.segmentation.labels import Label, brow_band, draw_labels, face_mask, occlusion, region_fractions
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.texture.preview import PreviewMesh, preview
from raylib.texture.texturer import Appearance, FaceColors, FaceMask, TextureLayout, Texturer

_GREY_PX = 4  # edge of the texture that stands for one that privacy keeps out


@dataclass(frozen=True)
class _Fitted:
    """What a face's estimate comes to: a batch of one, its light on the mesh, and columns of its row."""

    estimate: FaceEstimates
    appearance: Appearance | None
    transfer: np.ndarray | None
    columns: dict[str, Any]


@dataclass(frozen=True)
class MeshingSettings:
    """What the second stage needs of the configuration besides the method; see `ReconstructConfig`."""

    config: ReconstructConfig
    config_sha256: str


class NoFaceFitsError(RaylibError):
    """What the detector took for a face cannot be one."""


class ReconstructStage:
    """Makes mesh files and rows of analysed images; runs in the child process of `MeshStage`.

    Args:
        method: how a face becomes a mesh.
        output: folder of the run.
        settings: what to write and how.
    """

    def __init__(self, method: Estimator, output: Location, settings: MeshingSettings):
        torch.set_num_threads(max(1, int(settings.config.cpus_per_actor)))
        self._method, self._model = method, method.model
        model = method.model
        self._output, self._settings = output, settings
        self._topology = TextureLayout.of(
            model.mean.numpy(),
            model.faces.numpy(),
            None if model.uv is None else model.uv.numpy(),
            None if model.mirror_verts is None else model.mirror_verts.numpy(),
        )
        self._texturer = Texturer(self._topology, settings.config.max_texture_px)
        self._refiner = Refiner(model, settings.config.fit)
        device = "cuda" if settings.config.gpus_per_actor and torch.cuda.is_available() else "cpu"
        self._segmenter = FaceSegmenter(device=device) if settings.config.segment else None
        self._encoder = MeshEncoder(self._topology.faces, self._topology.uv)
        self._quality = Quality()

    def warm_up(self) -> None:
        """Does a face that is not there, so that no image's time goes into compiling kernels and loading networks."""
        if self._settings.config.privacy == "landmarks_only":
            return  # no face is estimated
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
        image = AnalysedImage("", "ok", width=256, height=256, faces=(found,))
        labels = self._labels([(image, 0)])
        (fitted,) = self._estimate([(image, 0)], labels)
        if isinstance(fitted, _Fitted):
            self._colored(found, fitted, labels[0])

    def rows(self, images: list[AnalysedImage]) -> list[dict[str, Any]]:
        """Returns the rows of a shard after writing its mesh files; all its faces are fitted together."""
        rows = [self._image_row(image) for image in images if not image.faces]
        found = []
        for image in images:
            for i in range(len(image.faces)):
                if self._settings.config.privacy == "landmarks_only":
                    rows.append(self._image_row(image) | self._face_row(image, i))
                    continue
                found.append((image, i))
        start = time.perf_counter()
        labels = self._labels(found)
        segmented = time.perf_counter()
        # On a CPU one by one: in a batch the last bits of a face depend on its neighbours, and a run that was killed
        # and continued has other neighbours. A GPU needs batches.
        together = max(1, len(found)) if self._settings.config.gpus_per_actor else 1
        parts = [slice(n, n + together) for n in range(0, len(found), together)]
        fitted = [one for part in parts for one in self._estimate(found[part], labels[part])]
        seconds = {"seconds_segment": (segmented - start) / max(len(found), 1)}
        for (image, i), one, label_map in zip(found, fitted, labels, strict=True):
            row = self._image_row(image) | self._face_row(image, i) | _label_columns(image.faces[i], label_map)
            row |= seconds
            try:
                if isinstance(one, NoFaceFitsError):
                    row |= {"quality": 0.0} | self._doubt(0.0)
                    rows.append(row)
                    continue
                if isinstance(one, Exception):
                    raise one
                row["quality"] = self._quality(evidence(image.faces[i], one))
                if row["quality"] >= self._settings.config.faces.min_quality:
                    row |= self._mesh(image, i, one, label_map, row)
                else:
                    row |= one.columns | _pose_columns(image, one) | self._doubt(row["quality"])
            except OSError:
                raise  # an output that cannot be written concerns the whole run
            except Exception as error:
                stage = "fit" if isinstance(one, Exception) else "texture"
                row |= {"status": "error", "error_stage": stage}
                row["error_message"] = f"{type(error).__name__}: {error}".strip(": ")
            rows.append(row)
        order = {image.uri: n for n, image in enumerate(images)}
        rows.sort(key=lambda row: (order[row["image_uri"]], row.get("face_index") or 0))
        return rows

    def _doubt(self, quality: float) -> dict[str, Any]:
        """Returns the columns of a face whose reconstruction is probably wrong."""
        least = self._settings.config.faces.min_quality
        message = (
            f"quality {quality:.3f} is less than faces.min_quality = {least:g}: probably no photograph of one face, "
            "or a head turned further than landmarks reach"
        )
        return {"status": "low_quality", "error_stage": "quality", "error_message": message}

    def _estimate(
        self, found: list[tuple[AnalysedImage, int]], labels: list[np.ndarray | None]
    ) -> list[_Fitted | Exception]:
        """Returns the method's estimate of each face, refined if so configured, or what is wrong with it."""
        size = torch.tensor([[image.width, image.height] for image, _ in found], dtype=torch.float32)
        assumed = focal_from_fov(self._settings.config.fov_deg, size.amax(dim=1))
        crops = [image.faces[i].crop for image, i in found]
        maps = [label_map for label_map in labels if label_map is not None]
        faces = FaceBatch(
            torch.from_numpy(np.stack([image.faces[i].face.landmarks for image, i in found])),
            torch.tensor([image.focal_px or float(f) for (image, _), f in zip(found, assumed, strict=True)]),
            size / 2,
            np.stack([crop.rgb for crop in crops]),
            np.stack([crop.to_photo for crop in crops]),
            np.stack(maps) if maps else None,
        )
        start = time.perf_counter()
        try:
            batch = self._method(faces)
            usable = batch.usable().tolist()
            fitted = time.perf_counter()
            lit = self._light(faces, batch)
        except Exception as error:
            return [error] * len(found)
        seconds = {"seconds_fit": (fitted - start) / len(found)}
        if lit is not None:
            seconds["seconds_refine"] = (time.perf_counter() - fitted) / len(found)
        bad = NoFaceFitsError("the landmarks fit no face before the camera")
        return [_one(batch, lit, n, seconds) if fine else bad for n, fine in enumerate(usable)]

    def _light(self, faces: FaceBatch, batch: FaceEstimates) -> Refinement | None:
        """Returns the faces with their light on them, refined if so configured; None where there is no light."""
        steps = self._settings.config.refine
        if not steps and batch.light_sh is None:
            return None
        return self._refiner(faces, batch, steps)

    def _labels(self, found: list[tuple[AnalysedImage, int]]) -> list[np.ndarray | None]:
        """Returns each face's label map, on its aligned crop; None without segmentation."""
        if self._segmenter is None or not found:
            return [None] * len(found)
        return list(self._segmenter.segment(np.stack([image.faces[i].crop.rgb for image, i in found])))

    def _image_row(self, image: AnalysedImage) -> dict[str, Any]:
        row: dict[str, Any] = {
            "image_uri": image.uri,
            "image_sha256": image.sha256 or None,
            "width": image.width or None,
            "height": image.height or None,
            "status": image.status,
            "error_stage": image.error_stage or None,
            "error_message": image.error_message or None,
            "decode_warning": image.decode_warning or None,
            "method": self._settings.config.method,
            "morphable_model": self._model.name,
            "weights_sha256": self._method.weights_sha256,
            "config_sha256": self._settings.config_sha256,
        }
        return row | {f"seconds_{s}": image.seconds.get(s) for s in STAGES}

    def _face_row(self, image: AnalysedImage, i: int) -> dict[str, Any]:
        found = image.faces[i]
        return {
            "face_index": i,
            "face_id": f"{image.sha256[:16]}-{i}",
            "detector": found.face.detector,
            "detector_score": found.face.score,
            "face_box": found.face.face_box,
            "landmarks_68": found.face.landmarks.ravel(),
            "landmark_spread": found.face.landmark_spread,
            "crop_to_photo": found.crop.to_photo.ravel().astype(np.float32),
        }

    def _mesh(
        self, image: AnalysedImage, i: int, face: _Fitted, labels: np.ndarray | None, row: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns the columns of a fitted face after writing its files."""
        start = time.perf_counter()
        estimate, appearance = face.estimate, face.appearance
        found = image.faces[i]
        patch_camera, verts_cam, normals, colors = self._colored(found, face, labels)
        with_pixels = self._settings.config.privacy == "none"
        if not with_pixels:
            grey = np.full((_GREY_PX, _GREY_PX, 3), 128, np.uint8)
            colors = replace(colors, texture=grey, vertex_colors=np.full_like(colors.vertex_colors, 128 / 255))
        textured = time.perf_counter()
        verts_mm = estimate.verts_mm[0].numpy()
        uris = self._write(row["face_id"], image, found, face, labels, patch_camera, verts_cam, normals, colors)
        written = time.perf_counter()
        return (
            uris
            | face.columns
            | _pose_columns(image, face)
            | {
                "scale_source": self._method.scale_source,
                "identity": estimate.identity[0].numpy(),
                "expression": estimate.expression[0].numpy(),
                "verts_mm": verts_mm.ravel(),
                "vertex_colors": colors.vertex_colors.astype(np.float32).ravel() if with_pixels else None,
                "vertex_source": colors.vertex_source,
                "vertex_visibility": colors.vertex_visibility,
                "albedo": appearance.albedo.ravel() if appearance is not None and with_pixels else None,
                "shading": appearance.shading.ravel() if appearance is not None else None,
                "light_sh": None if estimate.light_sh is None else estimate.light_sh[0].numpy().ravel(),
                "sigma_mm": None if estimate.sigma_mm is None else estimate.sigma_mm[0].numpy(),
                "seconds_texture": textured - start,
                "seconds_write": written - textured,
            }
        )

    def _colored(
        self, found: FoundFace, face: _Fitted, labels: np.ndarray | None
    ) -> tuple[Camera, np.ndarray, np.ndarray, FaceColors]:
        """Returns the patch's camera, the vertices in camera space, canonical normals and the colours of a face."""
        estimate, camera = face.estimate, face.estimate.camera
        normals = vertex_normals(estimate.verts_mm, self._model.faces)
        verts_cam = camera.to_camera(estimate.verts_mm)[0].numpy()
        patch_camera = _patch_camera(camera, found)
        colors = self._texturer(
            found.patch.rgb,
            verts_cam,
            (normals @ camera.R.transpose(1, 2))[0].numpy(),
            float(patch_camera.focal_px),
            patch_camera.principal_px[0].numpy(),
            _mask(found, labels),
            face.appearance,
        )
        return patch_camera, verts_cam, normals[0].numpy(), colors

    def _write(
        self,
        face_id: str,
        image: AnalysedImage,
        found: FoundFace,
        face: _Fitted,
        labels: np.ndarray | None,
        patch_camera: Camera,
        verts_cam: np.ndarray,
        normals: np.ndarray,
        colors: FaceColors,
    ) -> dict[str, Any]:
        """Writes the files of a face and returns their places relative to the output folder."""
        config, estimate = self._settings.config, face.estimate
        folder = f"meshes/{image.sha256[:16]}"
        verts_mm = estimate.verts_mm[0].numpy()
        physics = _physics(face) if config.privacy == "none" else {}
        files: dict[str, tuple[str, bytes]] = {}
        texture_png = _png(Image.fromarray(colors.texture)) if config.write_obj or config.write_glb else b""
        if config.write_obj:
            files["texture_uri"] = (f"{face_id}.png", texture_png)
            files["mtl_uri"] = (f"{face_id}.mtl", self._encoder.mtl(f"{face_id}.png", lit=bool(physics)))
            files["obj_uri"] = (f"{face_id}.obj", self._encoder.obj(verts_mm, colors.vertex_colors, f"{face_id}.mtl"))
        if config.write_glb:
            glb = self._encoder.glb(
                verts_mm, normals, colors.vertex_colors, colors.vertex_visibility, texture_png, face_id, physics
            )
            files["glb_uri"] = (f"{face_id}.glb", glb)
        if config.write_labels and labels is not None and config.privacy == "none":
            files["labels_uri"] = (f"{face_id}-labels.png", _png(Image.fromarray(draw_labels(labels))))
        if config.write_preview and config.privacy == "none":
            projected = patch_camera.project(estimate.verts_mm)[0].numpy()
            mesh = PreviewMesh(
                verts_mm,
                normals,
                np.concatenate([projected, verts_cam[:, 2:]], axis=1),
                self._topology.faces,
                self._topology.uv,
                colors.texture,
                None if face.appearance is None else face.appearance.shading,
                face.transfer,
            )
            landmarks = (found.face.landmarks - found.patch.corner_px) / found.patch.scale
            picture = preview(found.patch.rgb, landmarks, mesh)
            files["preview_uri"] = (f"{face_id}-preview.png", _png(picture))
        for name, content in files.values():
            self._output.write_bytes(f"{folder}/{name}", content)
        return {column: f"{folder}/{name}" for column, (name, _) in files.items()}


def evidence(found: FoundFace, face: _Fitted) -> Evidence:
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
        face.columns.get("photometric_psnr_before"),
        None if strange is None else float(strange),
    )


def _pose_columns(image: AnalysedImage, face: _Fitted) -> dict[str, Any]:
    """Returns the columns of camera, pose and fit, which a face has with and without a mesh."""
    camera = face.estimate.camera
    yaw, pitch, roll = euler_deg(camera.R)[0].tolist()
    return {
        "camera": "perspective",
        "focal_px": float(camera.focal_px),
        "focal_source": "assumed" if image.focal_px is None else "exif",
        "principal_px": camera.principal_px[0].numpy(),
        "R": camera.R[0].numpy().ravel(),
        "T_mm": camera.T[0].numpy(),
        "yaw_deg": yaw,
        "pitch_deg": pitch,
        "roll_deg": roll,
        "landmark_error_px": float(face.estimate.error_px),
        "landmark_nme": float(face.estimate.error_iod),
    }


def _one(batch: FaceEstimates, lit: Refinement | None, n: int, seconds: dict[str, float]) -> _Fitted:
    """Returns face n of a batch."""
    one = slice(n, n + 1)
    if lit is None:
        return _Fitted(batch.select(one), None, None, seconds)
    estimate, transfer = lit.estimates.select(one), lit.transfer[one]
    assert estimate.albedo is not None and estimate.light_sh is not None
    shading = (transfer @ estimate.light_sh).clamp(min=0)
    appearance = Appearance(estimate.albedo[0].cpu().numpy(), shading[0].cpu().numpy())
    columns = {
        "photometric_psnr": float(lit.psnr[n]),
        "photometric_psnr_before": float(lit.psnr_before[n]),
        "landmark_nme_before": float(lit.error_iod_before[n]),
    }
    return _Fitted(estimate, appearance, transfer[0].cpu().numpy(), columns | seconds)


def _physics(face: _Fitted) -> dict[str, np.ndarray]:
    """Returns what a GLB carries of a face's albedo, light and uncertainty."""
    estimate, appearance = face.estimate, face.appearance
    if appearance is None or estimate.light_sh is None:
        return {}
    physics = {"albedo": appearance.albedo, "shading": appearance.shading, "light_sh": estimate.light_sh[0].numpy()}
    return physics if estimate.sigma_mm is None else physics | {"sigma_mm": estimate.sigma_mm[0].numpy()}


def _label_columns(found: FoundFace, labels: np.ndarray | None) -> dict[str, Any]:
    if labels is None:
        return {}
    landmarks = found.crop.points_from_photo(found.face.landmarks)
    return {
        "region_fractions": np.array(list(region_fractions(labels).values()), dtype=np.float32),
        "occlusion": occlusion(labels, landmarks),
    }


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


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # a third of the default's time, a sixth more bytes
    return buffer.getvalue()
