"""Image files to upright 8-bit sRGB arrays, or an error that says what is wrong with the file."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from raylib.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
"""Formats that are decoded, by Pillow's names; others (EPS, PDF, ...) would start interpreters on foreign input."""

EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif"),
    *("avif", "avifs", "heic", "heif", "hif", "heics", "heifs"),
)
"""File name endings that make a file an input, lower case."""

_EXIF_IFD = 0x8769
_FOCAL_LENGTH_IN_35MM_FILM = 0xA405
_FULL_FRAME_DIAGONAL_MM = 43.2666


@dataclass(frozen=True)
class DecodedImage:
    """An upright photograph.

    Attributes:
        rgb: pixels, sRGB.
        format: the file's format by Pillow's name.
        focal_px: focal length in pixels from EXIF's 35 mm equivalent, or None where the file has none. It holds for
            photographs that were not cropped after they were taken.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    format: str
    focal_px: float | None


def decode(data: bytes, max_pixels: int) -> DecodedImage:
    """Returns the first picture in `data`, turned upright by its EXIF orientation, in 8-bit sRGB.

    Grey, palette, CMYK, Lab and 16-bit or floating-point pictures are converted, embedded colour profiles applied,
    transparent pixels laid over white.

    Args:
        data: content of a file in one of `FORMATS`.
        max_pixels: larger pictures are refused by their header, before any pixel is decoded.

    Raises:
        ImageError: with status `decode_error` or `too_large`.
    """
    if not data:
        raise ImageError("decode_error", "the file is empty")
    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None  # the limit below is ours, and known to the caller
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    "too_large", f"{width} x {height} pixels are more than max_pixels = {max_pixels} admits"
                )
            image.load()
            file_format = image.format or ""
            focal_35mm = _focal_35mm(image)
            rgb = np.asarray(_to_srgb(_upright(image)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("decode_error", "not an image in a known format") from None
    except MemoryError:
        raise ImageError(
            "out_of_memory", "decoding needs more memory than image_memory_gb or the machine has"
        ) from None
    except Exception as error:  # codecs raise nearly everything on broken files
        raise ImageError("decode_error", f"{type(error).__name__}: {error}".strip(": ")) from error
    diagonal_px = float(np.hypot(*rgb.shape[:2]))
    focal_px = focal_35mm / _FULL_FRAME_DIAGONAL_MM * diagonal_px if focal_35mm else None
    return DecodedImage(rgb, file_format, focal_px)


def looks_like_image(head: bytes) -> bool:
    """Tells by its first bytes whether a file is in one of `FORMATS`."""
    pillow_heif.register_heif_opener()
    Image.init()
    accepts = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is not None and accept(head[:64]) is True for accept in accepts)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF must not cost the picture
        return image


def _focal_35mm(image: Image.Image) -> float | None:
    try:
        value = float(image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_IN_35MM_FILM) or 0)
    except Exception:  # broken EXIF must not cost the picture
        return None
    return value if 8 <= value <= 2000 else None


def _to_srgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode == "P":  # a palette's transparency is part of the picture
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "LAB":
        return _through_profile(image, ImageCms.createProfile("LAB"))
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            return _through_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile, or one of another colour space: the plain conversion is the best guess
    return image.convert("RGB")


def _through_profile(image: Image.Image, profile: ImageCms.core.CmsProfile | ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert srgb is not None  # None only where the conversion is in place
    return srgb


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Maps 16-bit, 32-bit and floating-point grey to 8 bits by the range that the values show."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    top = float(values.max(initial=0))
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif top <= 1.0:
        full = 1.0
    elif top <= 255.0:
        full = 255.0
    else:
        full = max(top, 65535.0)
    return Image.fromarray(np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8))
