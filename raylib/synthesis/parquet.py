"""Synthetic faces as Parquet: the rows that `jobs/synthesize.py` writes, and their reader.

A part of the table is made from consecutive seeds and carries the hash of everything that shapes its pictures.
Lists are row-major and tell their shape in the schema. Maps are binary: 16-bit floats, or 16-bit integers with the
step that the schema gives.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from raylib.config import SynthesizeConfig
from raylib.errors import ConfigError
from raylib.geometry.camera import Camera
from raylib.synthesis import SyntheticFaces, split_of

SCHEMA_VERSION = "1"

DEPTH_STEP_MM = 0.05
NORMAL_STEP = 1 / 32767


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={b"description": meaning.encode()})


def _array(name: str, shape: str, meaning: str, kind: pa.DataType | None = None) -> pa.Field:
    metadata = {b"shape": shape.encode(), b"description": meaning.encode()}
    return pa.field(name, pa.list_(kind or pa.float32()), metadata=metadata)


def _map(name: str, kind: str, shape: str, meaning: str) -> pa.Field:
    metadata = {b"dtype": kind.encode(), b"shape": shape.encode(), b"description": meaning.encode()}
    return pa.field(name, pa.binary(), metadata=metadata)


SCHEMA = pa.schema(
    [
        _field("seed", pa.int64(), "of the picture; unique"),
        _field("person", pa.int64(), "number of the person; people of different splits never have the same"),
        _field("split", pa.string(), "train, validation or test"),
        _field("size_px", pa.int32(), "side of the picture"),
        _field("image", pa.binary(), "PNG or JPEG after camera effects"),
        _field(
            "labels", pa.binary(), "PNG of what each pixel shows, in the order of raylib.segmentation.labels.Label"
        ),
        _array("landmarks", "68,2", "pixels, centres at .5, Multi-PIE order"),
        _array("landmark_visible", "68", "inside the picture and not hidden", pa.bool_()),
        _array("R", "3,3", "rotation from face to camera space"),
        _array("T", "3", "translation, millimetres"),
        _field("focal_px", pa.float32(), "focal length"),
        _array("principal_px", "2", "principal point"),
        _array("pose_deg", "3", "yaw, pitch, roll"),
        _field("fov_deg", pa.float32(), "field of view of the picture"),
        _array("verts_mm", "2113,3", "face in the shipped prior's topology, canonical face space"),
        _array("identity", "k", "coefficients of the source model"),
        _array("prior_identity", "100", "the same in the prior's coefficients"),
        _array("expression", "55", "coefficients of the prior's blendshapes"),
        _array("albedo", "2113,3", "linear RGB of the vertices"),
        _field("texture", pa.binary(), "PNG: albedo in the prior's texture coordinates, 8-bit sRGB"),
        _array("light_sh", "9,3", "radiance of the surroundings, canonical face space"),
        _array("lamp_direction", "3", "towards the lamp"),
        _array("lamp_color", "3", "what a white matte surface that faces the lamp reflects; 0 without a lamp"),
        _map("lamp_visible", "float16", "2113", "share of the lamp that each vertex sees"),
        _map("transfer", "float16", "2113,9", "transfer coefficients, shadowed by head and hair"),
        _field("light_kind", pa.string(), "what the scene is"),
        _field("hair_kind", pa.string(), "what is on the head"),
        _field("melanin", pa.float32(), "share of melanosomes in the skin's upper layer"),
        _field("effects", pa.string(), "JSON: the camera's faults"),
        _map("clean", "float16", "h,w,3", "linear light before camera effects"),
        _map("beyond_matte", "float16", "h,w,3", "the part of it on the face that Lambert's law does not give"),
        _map("face_pixels", "bool", "h,w", "pixels that show nothing but the prior's mesh"),
        _map("normals", "int16", "h,w,3", "canonical face space, in steps of 1/32767; 0 on the background"),
        _map("depth", "uint16", "h,w", "along the camera's axis in steps of 0.05 mm; 0 on the background"),
    ],
    metadata={b"schema_version": SCHEMA_VERSION.encode()},
)

MAPS = ("clean", "beyond_matte", "face_pixels", "normals", "depth")
"""Columns that `store_maps: false` leaves null."""


def to_parquet(faces: SyntheticFaces, config: SynthesizeConfig, config_sha256: str) -> bytes:
    """Returns pictures as a Parquet file; equal pictures give equal bytes.

    Args:
        faces: the pictures.
        config: tells the picture format and whether maps are stored.
        config_sha256: hash of all that shapes them, for the file's metadata.
    """
    rows = [_row(faces, i, config) for i in range(len(faces))]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA]
    metadata = {**(SCHEMA.metadata or {}), b"config_sha256": config_sha256.encode()}
    table = pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=len(rows))
    return buffer.getvalue()


def _row(faces: SyntheticFaces, i: int, config: SynthesizeConfig) -> dict[str, Any]:
    camera = faces.camera
    maps = {
        "clean": faces.clean[i].astype(np.float16),
        "beyond_matte": faces.beyond_matte[i].astype(np.float16),
        "face_pixels": faces.face_pixels[i],
        "normals": np.rint(faces.normals[i] / NORMAL_STEP).astype(np.int16),
        "depth": np.rint(np.clip(faces.depth[i] / DEPTH_STEP_MM, 0, 65535)).astype(np.uint16),
    }
    return {
        "seed": int(faces.seeds[i]),
        "person": int(faces.person[i]),
        "split": split_of(int(faces.person[i])),
        "size_px": faces.image.shape[1],
        "image": encode(faces.image[i], config.image_format),
        "labels": encode(faces.labels[i], "png"),
        "R": camera.R[i].flatten().tolist(),
        "T": camera.T[i].tolist(),
        "focal_px": float(camera.focal_px[i]),
        "principal_px": camera.principal_px[i].tolist(),
        "fov_deg": float(faces.fov_deg[i]),
        "texture": encode(faces.texture[i], "png"),
        "lamp_visible": faces.lamp_visible[i].astype(np.float16).tobytes(),
        "transfer": faces.transfer[i].astype(np.float16).tobytes(),
        "light_kind": faces.light_kind[i],
        "hair_kind": faces.hair_kind[i],
        "melanin": float(faces.melanin[i]),
        "effects": json.dumps(faces.effects[i]),
        **{name: getattr(faces, name)[i].ravel() for name in _LISTS},
        **{name: value.tobytes() if config.store_maps else None for name, value in maps.items()},
    }


_LISTS = (
    "landmarks", "landmark_visible", "pose_deg", "verts_mm", "identity", "prior_identity", "expression", "albedo",
    "light_sh", "lamp_direction", "lamp_color",
)  # fmt: skip


def encode(picture: NDArray[np.uint8], image_format: str) -> bytes:
    """Returns a picture as PNG or as JPEG with quality 95."""
    buffer = io.BytesIO()
    if image_format == "jpeg":
        Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    else:
        Image.fromarray(picture).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


class SyntheticDataset:
    """The pictures below a folder or URI, read part by part.

    Args:
        uri: output of `jobs/synthesize.py`.
        storage_options: arguments of the fsspec filesystem.

    Raises:
        ConfigError: there are none.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, Any] | None = None):
        self._filesystem, root = fsspec.core.url_to_fs(uri, **(storage_options or {}))
        try:
            found = self._filesystem.ls(f"{root.rstrip('/')}/faces", detail=False)
        except FileNotFoundError:
            found = []
        self.parts: tuple[str, ...] = tuple(sorted(path for path in found if path.endswith(".parquet")))
        if not self.parts:
            raise ConfigError(f"synthetic faces are looked for in {uri!r}, expected faces/*.parquet in it")

    def __len__(self) -> int:
        count = 0
        for part in self.parts:
            with self._filesystem.open(part) as file:  # reads the end of the file alone
                count += int(pq.ParquetFile(file).metadata.num_rows)
        return count

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yields the rows of each part, some or all columns."""
        for part in self.parts:
            yield self._open(part).read(columns=None if columns is None else list(columns))

    def batches(self, size: int = 32) -> Iterator[SyntheticFaces]:
        """Yields all pictures in the order of their seeds, at most `size` at once.

        Maps that were not stored are empty: no pixels, the batch's number of rows.
        """
        for table in self.tables():
            for start in range(0, table.num_rows, size):
                yield from_table(table.slice(start, size))

    def _open(self, part: str) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self._filesystem.cat_file(part)))


def from_table(table: pa.Table) -> SyntheticFaces:
    """Returns the pictures of rows that have all columns of `SCHEMA`."""
    n = table.num_rows

    def numbers(name: str, *shape: int) -> NDArray[Any]:
        column = table.column(name).combine_chunks()
        # A copy, since Arrow's memory is not to be written to, as PyTorch's is.
        return np.array(column.flatten().to_numpy(zero_copy_only=False)).reshape(n, *shape)

    def words(name: str) -> list[Any]:
        return list(table.column(name).to_pylist())

    def pictures(name: str) -> NDArray[np.uint8]:
        return np.stack([np.asarray(Image.open(io.BytesIO(raw))) for raw in words(name)])

    def packed(name: str, *shape: int) -> NDArray[Any]:
        kind = SCHEMA.field(name).metadata[b"dtype"].decode()
        raw = words(name)
        if raw[0] is None:
            return np.zeros((n, 0), kind)
        return np.stack([np.frombuffer(one, kind).reshape(shape) for one in raw])

    def plain(name: str) -> NDArray[Any]:
        return np.asarray(table.column(name).to_numpy())

    size = int(plain("size_px")[0])
    camera = Camera(
        torch.from_numpy(numbers("R", 3, 3)),
        torch.from_numpy(numbers("T", 3)),
        torch.from_numpy(plain("focal_px").copy()),
        torch.from_numpy(numbers("principal_px", 2)),
    )
    return SyntheticFaces(
        seeds=plain("seed"),
        person=plain("person"),
        image=pictures("image"),
        clean=packed("clean", size, size, 3).astype(np.float32),
        beyond_matte=packed("beyond_matte", size, size, 3).astype(np.float32),
        labels=pictures("labels"),
        face_pixels=packed("face_pixels", size, size),
        landmarks=numbers("landmarks", 68, 2),
        landmark_visible=numbers("landmark_visible", 68),
        camera=camera,
        pose_deg=numbers("pose_deg", 3),
        fov_deg=plain("fov_deg"),
        verts_mm=numbers("verts_mm", -1, 3),
        identity=numbers("identity", -1),
        prior_identity=numbers("prior_identity", -1),
        expression=numbers("expression", -1),
        albedo=numbers("albedo", -1, 3),
        texture=pictures("texture"),
        light_sh=numbers("light_sh", 9, 3),
        lamp_direction=numbers("lamp_direction", 3),
        lamp_color=numbers("lamp_color", 3),
        lamp_visible=packed("lamp_visible", -1).astype(np.float32),
        transfer=packed("transfer", -1, 9).astype(np.float32),
        normals=packed("normals", size, size, 3).astype(np.float32) * np.float32(NORMAL_STEP),
        depth=packed("depth", size, size).astype(np.float32) * np.float32(DEPTH_STEP_MM),
        light_kind=tuple(words("light_kind")),
        hair_kind=tuple(words("hair_kind")),
        melanin=plain("melanin"),
        effects=tuple(json.loads(text) for text in words("effects")),
    )
