"""Second stage: faces to meshes, colours, pictures, files and rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from raylib.config import ReconstructConfig
from raylib.detection.alignment import FoundFace
from raylib.geometry.camera import euler_deg
from raylib.io.storage import Location
from raylib.pipeline import (
    ColoredFace,
    Estimator,
    FacePipeline,
    FittedFace,
    NoFaceFitsError,
    PhotographedFace,
    parts,
    png,
)
from raylib.reconstruction.detect_stage import AnalysedImage
from raylib.reconstruction.schema import STAGES
from raylib.segmentation.labels import draw_labels, occlusion, region_fractions

_OBJ_COLUMNS = {".png": "texture_uri", ".mtl": "mtl_uri", ".obj": "obj_uri"}


@dataclass(frozen=True)
class MeshingSettings:
    """What the second stage needs of the configuration besides the method; see `ReconstructConfig`."""

    config: ReconstructConfig
    config_sha256: str


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
        self._output, self._settings = output, settings
        self._pipeline = FacePipeline(method, settings.config)

    def warm_up(self) -> None:
        """Does a face that is not there; see `FacePipeline.warm_up`."""
        if self._settings.config.privacy != "landmarks_only":  # else no face is estimated
            self._pipeline.warm_up()

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
        faces = [PhotographedFace(m.faces[i], m.width, m.height, m.focal_px) for m, i in found]
        labels = self._pipeline.labels(faces)
        seconds = {"seconds_segment": (time.perf_counter() - start) / max(len(found), 1)}
        together = parts(len(faces), self._settings.config)
        fitted = [one for part in together for one in self._estimate(faces[part], labels[part])]
        for (image, i), (one, laps), label_map in zip(found, fitted, labels, strict=True):
            row = self._image_row(image) | self._face_row(image, i) | _label_columns(image.faces[i], label_map)
            row |= seconds
            try:
                if isinstance(one, NoFaceFitsError):
                    row |= {"quality": 0.0} | self._doubt(0.0)
                    rows.append(row)
                    continue
                if isinstance(one, Exception):
                    raise one
                row["quality"] = self._pipeline.quality(image.faces[i], one)
                if row["quality"] >= self._settings.config.faces.min_quality:
                    row |= self._mesh(image, i, one, label_map, row["face_id"]) | laps
                else:
                    row |= one.figures | laps | _pose_columns(image, one) | self._doubt(row["quality"])
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
        self, faces: list[PhotographedFace], labels: list[np.ndarray | None]
    ) -> list[tuple[FittedFace | Exception, dict[str, float]]]:
        """Returns the estimate of each face or what is wrong with it, and the seconds that it took."""
        seconds: dict[str, float] = {}
        last = time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[f"seconds_{stage}"], last = (now - last) / len(faces), now

        try:
            return [(one, seconds) for one in self._pipeline.estimate(faces, labels, lap=lap)]
        except Exception as error:
            return [(error, {})] * len(faces)

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
        self, image: AnalysedImage, i: int, fitted: FittedFace, labels: np.ndarray | None, face_id: str
    ) -> dict[str, Any]:
        """Returns the columns of a fitted face after writing its files."""
        start = time.perf_counter()
        estimate, appearance = fitted.estimate, fitted.appearance
        face = self._pipeline.color(image.faces[i], fitted, labels)
        with_pixels = self._settings.config.privacy == "none"
        if not with_pixels:
            face = face.without_pixels()
        colors = face.colors
        textured = time.perf_counter()
        uris = self._write(face_id, f"meshes/{image.sha256[:16]}", face, labels)
        written = time.perf_counter()
        return (
            uris
            | fitted.figures
            | _pose_columns(image, fitted)
            | {
                "scale_source": self._method.scale_source,
                "identity": estimate.identity[0].numpy(),
                "expression": estimate.expression[0].numpy(),
                "verts_mm": face.verts_mm.ravel(),
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

    def _write(self, face_id: str, folder: str, face: ColoredFace, labels: np.ndarray | None) -> dict[str, Any]:
        """Writes the files of a face and returns their places relative to the output folder."""
        config = self._settings.config
        public = config.privacy == "none"
        physics = face.physics() if public else {}
        files: dict[str, tuple[str, bytes]] = {}
        texture_png = face.texture_png() if config.write_obj or config.write_glb else b""
        if config.write_obj:
            for ending, content in face.obj(face_id, texture_png, lit=bool(physics)).items():
                files[_OBJ_COLUMNS[ending]] = (f"{face_id}{ending}", content)
        if config.write_glb:
            files["glb_uri"] = (f"{face_id}.glb", face.glb(face_id, texture_png, physics))
        if config.write_labels and labels is not None and public:
            files["labels_uri"] = (f"{face_id}-labels.png", png(Image.fromarray(draw_labels(labels))))
        if config.write_preview and public:
            files["preview_uri"] = (f"{face_id}-preview.png", png(face.preview()))
        for name, content in files.values():
            self._output.write_bytes(f"{folder}/{name}", content)
        return {column: f"{folder}/{name}" for column, (name, _) in files.items()}


def _pose_columns(image: AnalysedImage, face: FittedFace) -> dict[str, Any]:
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


def _label_columns(found: FoundFace, labels: np.ndarray | None) -> dict[str, Any]:
    if labels is None:
        return {}
    landmarks = found.crop.points_from_photo(found.face.landmarks)
    return {
        "region_fractions": np.array(list(region_fractions(labels).values()), dtype=np.float32),
        "occlusion": occlusion(labels, landmarks),
    }
