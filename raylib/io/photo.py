"""Photographs from wherever they are: files, URIs, bytes, Pillow's images, arrays."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.errors import ImageError, RaylibError
from raylib.io.images import decode

PhotoSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
"""What `load_image` takes."""

_MAX_PIXELS = 100_000_000
_TRIES = 3  # someone waits for the answer; a job would try for a minute
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TIFF_MODES = ("CMYK", "LAB", "F", "I")


@dataclass(frozen=True)
class Photo:
    """An upright photograph.

    Attributes:
        rgb: pixels, sRGB.
        focal_px: focal length in pixels from EXIF, None where it is unknown.
        uri: where the photograph came from; empty for bytes, images and arrays.
        warning: what decoding passed over, None where all is fine.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    focal_px: float | None = None
    uri: str = ""
    warning: str | None = None


def load_image(
    source: PhotoSource, *, max_pixels: int = _MAX_PIXELS, storage_options: Mapping[str, Any] | None = None
) -> Photo:
    """Returns a photograph upright, in 8-bit sRGB, with the focal length that its EXIF data tell.

    Args:
        source: path, fsspec URI (`s3://bucket/a.jpg`), content of an image file, Pillow image, or uint8 array
            (h, w), (h, w, 3) or (h, w, 4) in sRGB. Orientation, colour profile and transparency of files and Pillow
            images are applied.
        max_pixels: larger photographs are refused before they are decoded.
        storage_options: keyword arguments of the URI's filesystem.

    Raises:
        ImageError: the source is no image that can be read; `status` tells `decode_error`, `too_large` and others
            apart.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        uri, data = "", bytes(source)
    elif isinstance(source, np.ndarray):
        uri, data = "", _encoded(_of_array(source), max_pixels)
    elif isinstance(source, Image.Image):
        uri, data = "", _encoded(source, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        uri = os.fspath(source)
        data = _content(uri, storage_options or {})
    else:
        kind = type(source).__name__
        raise ImageError("decode_error", f"photo is a {kind}, expected a path, URI, bytes, Pillow image or array")
    try:
        image = decode(data, max_pixels)
    except ImageError as error:
        if not uri:
            raise
        raise ImageError(error.status, f"photo {uri!r} cannot be used: {error.message}") from error
    return Photo(image.rgb, image.focal_px, uri, image.warning)


def _content(uri: str, storage_options: Mapping[str, Any]) -> bytes:
    from raylib.io.storage import Location  # brings fsspec and pyarrow, which arrays and bytes do without

    try:
        location = Location(uri, storage_options, tries=_TRIES)
        return location.read_bytes(location.path)
    except ImageError as error:
        raise ImageError(error.status, f"photo {uri!r} cannot be read: {error.message}") from error
    except RaylibError:
        raise
    except Exception as error:  # every storage has its own errors
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".strip(": ")
        raise ImageError("error", f"photo {uri!r} cannot be read: {reason}") from error


def _of_array(array: np.ndarray) -> Image.Image:
    shape = array.shape
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not array.size or not (grey or (array.ndim == 3 and shape[2] in (3, 4))):
        raise ImageError(
            "decode_error", f"photo is an array {array.dtype} {shape}, expected uint8 (h, w), (h, w, 3) or (h, w, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _encoded(image: Image.Image, max_pixels: int) -> bytes:
    """Returns an image without loss as the content of a file, so that it takes the path that files take."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels are more than max_pixels = {max_pixels} admits")
    buffer = io.BytesIO()
    try:
        exif = image.getexif().tobytes()
        profile = image.info.get("icc_profile")
        if image.mode in _TIFF_MODES:
            image.save(buffer, "TIFF", exif=exif, icc_profile=profile)
        else:
            plain = image if image.mode in _PNG_MODES else image.convert("RGBA" if "A" in image.mode else "RGB")
            image_profile = profile if plain is image else None
            plain.save(buffer, "PNG", compress_level=1, exif=exif, icc_profile=image_profile)
    except Exception as error:  # Pillow decodes a file's pixels only now, and codecs raise nearly everything
        reason = " ".join(f"{type(error).__name__}: {error}".strip(": ").split())
        raise ImageError("decode_error", f"photo is a Pillow image that cannot be decoded: {reason}") from error
    return buffer.getvalue()
