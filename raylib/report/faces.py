"""One face for the page: a thumbnail, the part of the photograph around it, and its packed mesh."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from raylib.errors import RaylibError
from raylib.geometry.camera import Camera
from raylib.geometry.mesh import vertex_normals
from raylib.io.images import decode
from raylib.io.storage import Location
from raylib.report.geometry import SharedTopology, pack_mesh
from raylib.report.page import base64_text
from raylib.texture.preview import PANEL_PX, clay_view, cut_square, photograph_square

HEAVY = (
    *("image_uri", "image_sha256", "face_id", "face_index", "status", "face_box", "landmarks_68"),
    *("focal_px", "principal_px", "R", "T_mm", "light_sh", "verts_mm", "vertex_colors", "vertex_source"),
    *("vertex_visibility", "albedo", "sigma_mm", "texture_uri", "preview_uri"),
)
"""Columns of a row that a face is made of."""

THUMB_PX = 112
_GREY = (238, 238, 238)
_MARGIN = 1.15  # of the square around a face where no mesh tells it


@dataclass(frozen=True)
class PictureSettings:
    """Where pictures may come from and how large they are.

    Attributes:
        photographs: whether the photographs may be read again.
        stored: whether pictures in the output folder may be shown.
        photo_px: side of the part of the photograph.
        texture_px: largest side of the texture.
        max_pixels: larger photographs are not decoded.
        storage_options: for the photographs' filesystem.
    """

    photographs: bool
    stored: bool
    photo_px: int
    texture_px: int
    max_pixels: int
    storage_options: Mapping[str, Any]


@dataclass(frozen=True)
class FaceEntry:
    """What the page shows of a row.

    Attributes:
        thumbnails: JPEGs in base64: the photograph, or the bare shape where that is not to be had, and where asked
            for the bare shape besides; None where there is neither.
        detail: what the viewer opens, or None where the row has no face.
    """

    thumbnails: list[str] | None
    detail: dict[str, Any] | None


class FacePacker:
    """Turns the rows of a run into what the page shows.

    Args:
        output: folder of the run.
        topologies: by number of vertices.
        settings: where pictures come from.
        prefix: what a topology's name begins with on the page.
        clay: whether the bare shape has a thumbnail of its own.
    """

    def __init__(
        self,
        output: Location,
        topologies: Mapping[int, SharedTopology],
        settings: PictureSettings,
        prefix: str,
        clay: bool,
    ):
        self._output, self._topologies, self._settings = output, topologies, settings
        self._prefix, self._clay = prefix, clay

    def image(self, rows: Sequence[Mapping[str, Any]]) -> list[FaceEntry]:
        """Returns the entries of the rows of one image, which is read once for all its faces."""
        photo = self._photograph(rows[0]) if self._settings.photographs else None
        return [self._entry(row, photo) for row in rows]

    def _photograph(self, row: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"] | None:
        """Returns the photograph where it still is what the run saw; pictures are an extra, never an error."""
        if row["image_sha256"] is None or row["status"] not in ("ok", "no_face", "low_quality", "error"):
            return None  # what crashed or hung a child process is not decoded here
        try:
            location = Location(row["image_uri"], self._settings.storage_options, tries=1)
            data = location.read_bytes(location.path)
            if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
                return None
            return decode(data, self._settings.max_pixels).rgb
        except (OSError, ValueError, RaylibError):
            return None

    def _entry(self, row: Mapping[str, Any], photo: UInt8[np.ndarray, "h w 3"] | None) -> FaceEntry:
        if row["face_index"] is None:
            return FaceEntry(None if photo is None else [_jpeg(_whole(photo), 72)], None)
        landmarks = np.asarray(row["landmarks_68"], np.float64).reshape(68, 2)
        detail: dict[str, Any] = {"landmarks": np.round(landmarks, 1).ravel().tolist()}
        verts = None if row["verts_mm"] is None else np.asarray(row["verts_mm"], np.float32).reshape(-1, 3)
        topology = None if verts is None else self._topologies.get(len(verts))
        if verts is None or topology is None:
            corner, side = _box_square(row["face_box"], landmarks)
            picture = None if photo is None else self._part(photo, corner, side)
            thumbnail = self._pictures(detail, picture, corner, side)
            return FaceEntry(None if thumbnail is None else [thumbnail], detail)
        verts_px = _camera(row).project(torch.from_numpy(verts)[None])[0].numpy()
        corner, side = photograph_square(np.concatenate([landmarks, verts_px]))
        detail |= self._mesh(row, verts, topology, verts_px, landmarks)
        picture = None if photo is None else self._part(photo, corner, side)
        if picture is None and row["preview_uri"] and self._settings.stored:
            picture = self._first_panel(row["preview_uri"])
        thumbnail = self._pictures(detail, picture, corner, side)
        if row["texture_uri"] and self._settings.stored:
            texture = self._stored(row["texture_uri"])
            if texture is not None:
                texture.thumbnail((self._settings.texture_px, self._settings.texture_px), Image.Resampling.BOX)
                detail["texture"] = _jpeg(texture, 82)
        shape = _clay_thumbnail(verts, topology) if thumbnail is None or self._clay else None
        return FaceEntry([thumb for thumb in (thumbnail or shape, shape if self._clay else None) if thumb], detail)

    def _mesh(
        self,
        row: Mapping[str, Any],
        verts: Float[np.ndarray, "v 3"],
        topology: SharedTopology,
        verts_px: Float[np.ndarray, "v 2"],
        landmarks: Float[np.ndarray, "68 2"],
    ) -> dict[str, Any]:
        def array(name: str, *shape: int) -> np.ndarray | None:
            return None if row[name] is None else np.asarray(row[name], np.float32).reshape(len(verts), *shape)

        anchors, distances = topology.landmark_fit(verts_px, landmarks)
        stored_texture = row["texture_uri"] and self._settings.stored
        return {
            "topology": f"{self._prefix}{len(verts)}",
            "mesh": pack_mesh(
                verts,
                topology.base_mm,
                visibility=array("vertex_visibility"),
                source=array("vertex_source"),
                albedo=array("albedo", 3),
                colors=None if stored_texture else array("vertex_colors", 3),
                sigma=array("sigma_mm"),
            ),
            "anchors": anchors.tolist(),
            "distances_px": distances.tolist(),
            "camera": {
                "R": np.asarray(row["R"]).tolist(),
                "T": np.asarray(row["T_mm"]).tolist(),
                "focal": row["focal_px"],
                "principal": np.asarray(row["principal_px"]).tolist(),
            },
            "light": None if row["light_sh"] is None else np.asarray(row["light_sh"]).tolist(),
        }

    def _pictures(
        self, detail: dict[str, Any], picture: Image.Image | None, corner: Float[np.ndarray, " 2"], side: float
    ) -> str | None:
        """Adds the part of the photograph and its place to `detail`; returns the thumbnail."""
        detail["square"] = [float(corner[0]), float(corner[1]), side]
        if picture is None:
            return None
        detail["photo"] = _jpeg(picture, 80)
        return _thumbnail(picture)

    def _part(self, photo: UInt8[np.ndarray, "h w 3"], corner: Float[np.ndarray, " 2"], side: float) -> Image.Image:
        return Image.fromarray(cut_square(photo, corner, side, self._settings.photo_px))

    def _first_panel(self, uri: str) -> Image.Image | None:
        """Returns the photograph's part from the stored preview, with the landmarks that are drawn on it."""
        preview = self._stored(uri)
        return None if preview is None else preview.crop((0, 0, PANEL_PX, PANEL_PX))

    def _stored(self, uri: str) -> Image.Image | None:
        try:
            with Image.open(io.BytesIO(self._output.read_bytes(self._output.join(uri)))) as image:
                return image.convert("RGB")
        except OSError:  # removed since, or not copied along
            return None


def _camera(row: Mapping[str, Any]) -> Camera:
    def tensor(name: str, *shape: int) -> torch.Tensor:
        return torch.tensor(np.asarray(row[name], np.float32).reshape(1, *shape))

    return Camera(tensor("R", 3, 3), tensor("T_mm", 3), tensor("focal_px").reshape(1), tensor("principal_px", 2))


def _box_square(box: Sequence[float], landmarks: Float[np.ndarray, "68 2"]) -> tuple[np.ndarray, float]:
    points = np.concatenate([landmarks, np.asarray(box, np.float64).reshape(2, 2)])
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max()) * _MARGIN
    return (low + high - side) / 2, side


def _whole(photo: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """Returns the whole photograph inside a square."""
    image = Image.fromarray(photo)
    image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BILINEAR, reducing_gap=2)
    square = Image.new("RGB", (THUMB_PX, THUMB_PX), _GREY)
    square.paste(image, ((THUMB_PX - image.width) // 2, (THUMB_PX - image.height) // 2))
    return square


def _clay_thumbnail(verts: Float[np.ndarray, "v 3"], topology: SharedTopology) -> str:
    faces = topology.faces.astype(np.int64)
    normals = vertex_normals(torch.from_numpy(verts)[None], torch.from_numpy(faces))[0].numpy()
    return _thumbnail(Image.fromarray(clay_view(verts, normals, faces)))


def _thumbnail(picture: Image.Image) -> str:
    return _jpeg(picture.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX), 72)


def _jpeg(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return base64_text(buffer.getvalue())
