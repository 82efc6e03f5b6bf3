"""Image files to upright 8-bit sRGB arrays, or an error that says what is wrong with the file.

Every picture takes one path: opened by its header, which its size is checked by; decoded; brought to the full range
of its samples; converted to sRGB by what the file says of its colours; laid over white where it is transparent.
"""

from __future__ import annotations

import io
import logging
import struct
import sys
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from raylib.errors import ImageError
from raylib.io.color_profiles import ProfileError, described_profile, eight_bits, lab_to_srgb, to_srgb
from raylib.io.incomplete_images import ENOUGH, jpeg_ends, recover
from raylib.io.sample_range import full_scale, to_sixteen_bits

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "PPM", "JPEG2000", "TGA")
"""Formats that are decoded, by Pillow's names; others (EPS, PDF, ...) would start interpreters on foreign input. TGA,
which no magic number marks, is what is left if all else fails and the header holds together."""

EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif"),
    *("avif", "avifs", "heic", "heif", "hif", "heics", "heifs"),
    *("pbm", "pgm", "ppm", "pnm", "pfm", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "tga", "icb", "vda", "vst"),
)
"""File name endings that make a file an input, lower case."""

_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
_MAX_FRAMES = 100
_ALL_BUT_TGA = tuple(name for name in FORMATS if name != "TGA")
_EXIF_IFD = 0x8769
_ORIENTATION = 0x0112
_FOCAL_LENGTH_IN_35MM_FILM = 0xA405
_FULL_FRAME_DIAGONAL_MM = 43.2666
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT, _S_MAX_SAMPLE = 258, 262, 281, 339, 341
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations, and what turns them upright."""
_OTHER_BYTE = {
    f"{bands};16{order}": f"{bands};16{other}"
    for bands in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
"""Pillow keeps the upper byte of 16-bit colours; read in the other byte order it keeps the lower one."""


@dataclass(frozen=True)
class DecodedImage:
    """An upright photograph.

    Attributes:
        rgb: pixels, sRGB.
        format: the file's format by Pillow's name.
        focal_px: focal length in pixels from EXIF's 35 mm equivalent, or None where the file has none. It holds for
            photographs that were not cropped after they were taken.
        warning: what of the file was broken and passed over, or which frame was taken; None where all is fine.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    format: str
    focal_px: float | None
    warning: str | None = None


def decode(data: bytes, max_pixels: int) -> DecodedImage:
    """Returns the first picture in `data`, turned upright by its EXIF orientation, in 8-bit sRGB.

    Grey, palette, CMYK, Lab and 16-bit or floating-point pictures are converted. Colours go through the embedded ICC
    profile, or by code points (cICP, nclx), or by PNG's gamma and chromaticities, else they are sRGB; PQ and HLG show
    their reference white of 203 nits as white and clip what is brighter. Transparent pixels are laid over white. Of
    an animation, frames that are transparent or of one colour are passed over. A file that breaks off is used if 95 %
    of its rows are decoded.

    Args:
        data: content of a file in one of `FORMATS`.
        max_pixels: larger pictures are refused by their header, before any pixel is decoded.

    Raises:
        ImageError: with status `decode_error` or `too_large`.
    """
    if not data:
        raise ImageError("decode_error", "the file is empty")
    _set_pillow_up()
    notes: list[str] = []
    try:
        source, pixels = _loaded(data, max_pixels, notes)
        file_format = source.format or ""
        if not _exif_holds(source):
            notes.append("the EXIF data are broken and were passed over where they cannot be read")
        focal_35mm = _focal_35mm(source)
        rgb = np.asarray(_upright(_in_srgb(source, pixels, data, notes), source))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("decode_error", "not an image in a known format") from None
    except MemoryError:
        raise ImageError(
            "out_of_memory", "decoding needs more memory than image_memory_gb or the machine has"
        ) from None
    except Exception as error:  # codecs raise nearly everything on broken files
        reason = " ".join(f"{type(error).__name__}: {error}".strip(": ").split())
        raise ImageError("decode_error", reason) from error
    diagonal_px = float(np.hypot(*rgb.shape[:2]))
    focal_px = focal_35mm / _FULL_FRAME_DIAGONAL_MM * diagonal_px if focal_35mm else None
    return DecodedImage(rgb, file_format, focal_px, "; ".join(notes) or None)


def looks_like_image(head: bytes) -> bool:
    """Tells by its first bytes whether a file is in one of `FORMATS`."""
    _set_pillow_up()
    Image.init()
    accepts = (Image.OPEN[name][1] for name in _ALL_BUT_TGA if name in Image.OPEN)
    return any(accept is not None and accept(head[:64]) is True for accept in accepts)


def _set_pillow_up() -> None:
    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, and known to the caller
    # What is wrong with a file is said in the result, not on the terminal.
    warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Returns an image of whose pixels none is decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=_ALL_BUT_TGA)
    except UnidentifiedImageError:
        if not _may_be_tga(data):
            raise
        image = Image.open(io.BytesIO(data), formats=("TGA",))
    _check_size(image.size, max_pixels)
    if image.format == "JPEG2000":
        _check_size(_codestream_size(data), max_pixels)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels are more than max_pixels = {max_pixels} admits")


def _codestream_size(data: bytes) -> tuple[int, int]:
    """Returns the size by which a JPEG 2000 file is decoded, whatever the boxes around it say."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 42 > len(data):
        raise ImageError("decode_error", "the JPEG 2000 file holds no codestream")
    width, height, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    if components > 4:
        raise ImageError("decode_error", f"a JPEG 2000 file of {components} components, at most 4 are read")
    return max(width - left, 0), max(height - top, 0)


def _may_be_tga(data: bytes) -> bool:
    """Returns whether a header that no magic number marks holds together, and the data suffice for it."""
    if len(data) < 18:
        return False
    id_length, has_map, kind, _, map_length, map_depth, _, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    depths = {1: (8,), 2: (15, 16, 24, 32), 3: (8, 16)}.get(kind & 7, ())
    if kind not in (1, 2, 3, 9, 10, 11) or depth not in depths or not width or not height:
        return False
    if has_map > 1 or (kind & 7 == 1) != bool(has_map) or (not has_map and data[3:8] != bytes(5)):
        return False
    if has_map and (map_depth not in (15, 16, 24, 32) or not 0 < map_length <= 4096):
        return False
    alpha_bits = {32: (0, 8), 16: (0, 1, 8), 15: (0, 1), 24: (0,), 8: (0, 8)}[depth]
    if flags & 0xC0 or flags & 0x0F not in alpha_bits:
        return False
    pixels, size = width * height, (depth + 7) // 8
    least = -(-pixels // 128) * (1 + size) if kind & 8 else pixels * size
    return len(data) >= 18 + id_length + map_length * ((map_depth + 7) // 8) + least / 2


def _loaded(data: bytes, max_pixels: int, notes: list[str]) -> tuple[ImageFile.ImageFile, Image.Image]:
    """Returns the file, open, and its picture, decoded; what had to be passed over is added to `notes`."""
    rawmode, declared = "", None
    try:
        image = _open(data, max_pixels)
        rawmode, declared = _rawmode(image), _declared_scale(image)
        image.load()
        if image.format in ("JPEG", "MPO") and not jpeg_ends(data):
            raise OSError("the JPEG lacks its end")  # zeros behind a broken download pass for pixels
        if image.format in _ANIMATIONS and getattr(image, "is_animated", False):
            image = _visible_frame(image, data, max_pixels, notes)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # codecs raise nearly everything on broken files
        part = recover(data, partial(_open, max_pixels=max_pixels))
        if part is None:
            raise
        if part.share < ENOUGH:
            raise ImageError("decode_error", f"{part}, fewer than {ENOUGH:.0%}") from error
        notes.append(str(part))
        return part.image, _ranged(part.image, declared)
    if image.format == "PNG" and b"IEND" not in data[-1024:] and b"IEND" not in data:
        notes.append("the file lacks its end, all its rows are decoded")
    if rawmode in _OTHER_BYTE:
        return image, _dark_colors_ranged(image, data, max_pixels, rawmode, declared)
    return image, _ranged(image, declared)


def _visible_frame(image: ImageFile.ImageFile, data: bytes, max_pixels: int, notes: list[str]) -> ImageFile.ImageFile:
    """Returns the first frame that is neither transparent nor of one colour, else the first one."""
    if not _is_empty(image):
        return image
    for frame in range(1, min(_MAX_FRAMES, max(2, max_pixels // (image.width * image.height)))):
        try:
            image.seek(frame)
            _check_size(image.size, max_pixels)
            image.load()
        except (EOFError, OSError, SyntaxError, ValueError):
            break
        if not _is_empty(image):
            notes.append(f"frame {frame + 1} of an animation was taken, those before are empty")
            return image
    first = _open(data, max_pixels)
    first.load()
    return first


def _is_empty(image: Image.Image) -> bool:
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).max() < 16:
        return True
    rgb = np.asarray(image.convert("RGB"))
    return bool((rgb == rgb[0, 0]).all())


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Returns how the samples lie in the file, by Pillow's name; empty if the codec does not say."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _declared_scale(image: ImageFile.ImageFile) -> float | None:
    """Returns which sample is white by the file, None where it does not say so or says nothing of use."""
    if image.format == "JPEG2000" or (image.format == "PPM" and image.tile and image.tile[0][0] != "raw"):
        arguments = image.tile[0][3] if image.tile else ()
        is_full = isinstance(arguments, tuple) and arguments[-1] == 65535
        return None if image.format == "PPM" and is_full else 65535.0  # the decoder scales to 16 bits
    tags = getattr(image, "tag_v2", {})
    if image.format != "TIFF":
        return None
    if image.mode.startswith("I;16") and tags.get(_BITS_PER_SAMPLE) == (12,):
        return 4095.0
    for tag in (_S_MAX_SAMPLE, _MAX_SAMPLE):
        values = tags.get(tag, ())
        try:
            value = float(max(values) if isinstance(values, tuple) else values)
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if 0 < value < 65535:  # writers that know nothing write the container's
            return value
    return None


def _ranged(image: Image.Image, declared: float | None) -> Image.Image:
    """Returns a picture of more than 8 bits of grey in 16 bits with white at 65535, others as they are."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    samples = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_BITS_PER_SAMPLE) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        samples = samples.view(np.uint32)
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    deep = to_sixteen_bits(samples, full_scale(samples, declared))
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        deep = 65535 - deep
    ranged = Image.fromarray(deep)
    key = image.info.get("transparency")
    if isinstance(key, int):
        ranged = eight_bits(ranged)
        ranged.putalpha(Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
    return ranged


def _dark_colors_ranged(
    image: ImageFile.ImageFile, data: bytes, max_pixels: int, rawmode: str, declared: float | None
) -> Image.Image:
    """Returns 16-bit colours that reach a quarter of their range at most by the range they reach, others as is."""
    samples = np.asarray(image)
    if samples[..., :3].max(initial=0) >= 64:
        return image
    lower = _open(data, max_pixels)
    other = _OTHER_BYTE[rawmode]
    lower.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in lower.tile
    ]
    lower.load()
    samples = samples.astype(np.uint16) << 8 | np.asarray(lower)
    deep = to_sixteen_bits(samples[..., :3], full_scale(samples[..., :3], declared))
    ranged = Image.fromarray(((deep.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "RGBA":
        ranged.putalpha(image.getchannel("A"))
    return ranged


def _in_srgb(source: ImageFile.ImageFile, pixels: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Returns pixels of any mode in sRGB: colours first, without their alpha, then over white."""
    alpha = None
    if pixels.has_transparency_data:
        pixels, alpha = _without_alpha(pixels)
        if source.format == "TGA" and (data[17] & 0x0F == 0 or alpha.getextrema()[1] == 0):
            alpha = None  # a byte that the writer left unused
    if pixels.mode not in ("L", "I;16", "RGB", "CMYK", "LAB"):
        pixels = pixels.convert("L" if pixels.mode == "1" else "RGB")
    if pixels.mode == "LAB":
        rgb = lab_to_srgb(pixels)
    else:
        try:
            profile = described_profile(source, data)
            rgb = eight_bits(pixels).convert("RGB") if profile is None else to_srgb(pixels, profile)
        except ProfileError as error:
            notes.append(f"{error} and was passed over")
            rgb = eight_bits(pixels).convert("RGB")
    if alpha is None or alpha.getextrema() == (255, 255):
        return rgb
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Returns the colours and the alpha of a picture whose transparency lies in a channel, a palette or a key."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(v >> 8 for v in key)  # the pixels have been brought to 8 bits
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if grey else "RGBA")
    return image.convert("L" if grey else "RGB"), image.getchannel("A")


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(source.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF must not cost the picture
        return image
    return image if turn is None else image.transpose(turn)


def _focal_35mm(image: Image.Image) -> float | None:
    try:
        value = float(image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_IN_35MM_FILM) or 0)
    except Exception:  # broken EXIF must not cost the picture
        return None
    return value if 8 <= value <= 2000 else None


def _exif_holds(image: Image.Image) -> bool:
    """Returns whether the directory of EXIF data, where there are any, lies within them."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes) or not exif:
        return True
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return False
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return False
    return start + 2 + 12 * struct.unpack_from(order + "H", exif, start)[0] <= len(exif)
