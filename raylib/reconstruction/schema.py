"""The table of a run: one row a face, one row for an image without a face or with an error."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylib.config import STATUSES

SCHEMA_VERSION = "3"

STAGES = ("read", "decode", "detect", "segment", "fit", "refine", "texture", "write")
"""Stages whose seconds a row counts (`seconds_read`, ...)."""
ERROR_STAGES = ("read", "decode", "decode_or_detect", "fit", "quality", "refine", "texture", "mesh")
"""Values of `error_stage`; a process that died cannot tell whether it was decoding or detecting, nor at which
stage of meshing it was."""


def _floats(shape: str, meaning: str) -> dict[bytes, bytes]:
    return {b"shape": shape.encode(), b"description": meaning.encode()}


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={b"description": meaning.encode()})


def _array(name: str, shape: str, meaning: str, kind: pa.DataType | None = None) -> pa.Field:
    """A list column whose metadata give its shape; lists are row-major."""
    return pa.field(name, pa.list_(kind or pa.float32()), metadata=_floats(shape, meaning))


SCHEMA = pa.schema(
    [
        _field("image_uri", pa.string(), "path or URI of the photograph"),
        _field("image_sha256", pa.string(), "of the file's content; null if it could not be read"),
        _field("width", pa.int32(), "of the upright photograph, pixels"),
        _field("height", pa.int32(), "of the upright photograph, pixels"),
        _field("face_index", pa.int32(), "0 for the largest face of the image; null without a face"),
        _field("face_id", pa.string(), "first 16 digits of the hash, a dash, the index"),
        _field("status", pa.string(), ", ".join(STATUSES)),
        _field("quality", pa.float32(), "how probably the reconstruction shows one face as it is, 0..1"),
        _field("error_stage", pa.string(), ", ".join(ERROR_STAGES)),
        _field("error_message", pa.string(), "one sentence"),
        _field("decode_warning", pa.string(), "what decoding passed over, or which frame was taken; null if nothing"),
        _field("detector", pa.string(), "hog or cnn"),
        _field("detector_score", pa.float32(), "the detector's own scale"),
        _array("face_box", "4", "left, top, right, bottom in pixels"),
        _array("landmarks_68", "68,2", "detected landmarks (Multi-PIE order) in pixels, pixel centres at .5"),
        _field("landmark_spread", pa.float32(), "movement of the landmarks when the box moves, share of face size"),
        _array("crop_to_photo", "2,3", "affine map from the aligned 256 px crop to the photograph"),
        _array("region_fractions", "6", "shares of the crop: background, hair, skin, eyes, nose, mouth"),
        _field("occlusion", pa.float32(), "share of the face that something covers, estimated"),
        _field("method", pa.string(), "how the face became a mesh"),
        _field("morphable_model", pa.string(), "name of the model"),
        _field("weights_sha256", pa.string(), "of the model or weights file"),
        _field("config_sha256", pa.string(), "of the settings that shape the result"),
        _field("camera", pa.string(), "camera model: perspective"),
        _field("focal_px", pa.float32(), "focal length in pixels"),
        _field("focal_source", pa.string(), "exif, or assumed (from fov_deg)"),
        _array("principal_px", "2", "principal point in pixels"),
        _array("R", "3,3", "rotation from face to camera space (x right, y down, z away)"),
        _array("T_mm", "3", "translation in camera space, millimetres"),
        _field("scale_source", pa.string(), "where millimetres come from: model prior"),
        _field("yaw_deg", pa.float32(), "positive where the subject turns to its own left"),
        _field("pitch_deg", pa.float32(), "positive where the subject looks up"),
        _field("roll_deg", pa.float32(), "positive where the head tilts clockwise in the image"),
        _array("identity", "k", "identity coefficients, standard deviations"),
        _array("expression", "e", "expression coefficients"),
        _array("light_sh", "9,3", "spherical-harmonic light; null where the method estimates none"),
        _array("verts_mm", "v,3", "vertices in canonical face space, millimetres"),
        _array("vertex_colors", "v,3", "colours of the photograph, sRGB 0..1"),
        _array("vertex_source", "v", "0 visible, 1 mirrored, 2 filled", pa.uint8()),
        _array("vertex_visibility", "v", "how well the photograph sees the vertex, 0..1"),
        _array("albedo", "v,3", "albedo, linear; null where the method estimates none"),
        _array("shading", "v,3", "of white matte skin in the estimated light, linear; null without light"),
        _array("sigma_mm", "v", "uncertainty of each vertex; null where the method estimates none"),
        _field("landmark_error_px", pa.float32(), "mean distance of fitted and detected landmarks, pixels"),
        _field("landmark_nme", pa.float32(), "the same divided by the distance of the outer eye corners"),
        _field("landmark_nme_before", pa.float32(), "landmark_nme before refinement; null without"),
        _field("photometric_psnr", pa.float32(), "dB inside the bare face; null where nothing is rendered"),
        _field("photometric_psnr_before", pa.float32(), "the same before refinement; null without"),
        _field("obj_uri", pa.string(), "relative to the output folder"),
        _field("mtl_uri", pa.string(), "relative to the output folder"),
        _field("texture_uri", pa.string(), "relative to the output folder"),
        _field("glb_uri", pa.string(), "relative to the output folder"),
        _field("labels_uri", pa.string(), "relative to the output folder"),
        _field("preview_uri", pa.string(), "relative to the output folder"),
        *(_field(f"seconds_{s}", pa.float32(), f"seconds in stage {s}, shared by the image's faces") for s in STAGES),
    ],
    metadata={b"physface_schema_version": SCHEMA_VERSION.encode()},
)


def to_parquet(rows: list[dict[str, Any]], before: pa.Table | None = None) -> bytes:
    """Returns a Parquet file of rows; a column that a row lacks is null.

    Args:
        rows: values by column.
        before: rows of this schema that come first.

    Raises:
        KeyError: a row has a column that the schema lacks.
    """
    names = set(SCHEMA.names)
    for row in rows:
        if not names.issuperset(row):
            raise KeyError(f"columns {sorted(set(row) - names)} are not in the schema")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table_to_parquet(table if before is None else pa.concat_tables([before.cast(SCHEMA), table]))


def table_to_parquet(table: pa.Table) -> bytes:
    """Returns a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
