"""What a file says of its colours, as ICC profiles, and pictures through them to sRGB.

A file describes its colours by an ICC profile, by code points (ITU-T H.273: cICP chunks and nclx boxes) or by PNG's
gamma and chromaticities. The latter two are written as small matrix profiles here, so that one colour engine converts
all. PQ and HLG show their reference white (203 nits, ITU-R BT.2408) as white; what is brighter is clipped.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageCms

_REFERENCE_WHITE_NITS = 203.0
_HLG_PEAK_NITS = 1000.0
_CURVE_SAMPLES = 4096
_D65 = (0.3127, 0.3290)
_D50_XYZ = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_ADOBE_RGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""H.273 colour primaries: x and y of white, red, green, blue."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18
_SRGB_LIKE_GAMMA = 1 / 2.2
"""PNG's gAMA value that goes with sRGB; pictures that carry it were made for sRGB screens."""


class ProfileError(Exception):
    """A colour description that cannot be applied; the message says why."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Returns a picture without alpha in sRGB (mode RGB), given the ICC profile of its pixels.

    Args:
        image: mode L, I;16, RGB or CMYK.
        profile: ICC profile. One of grey is applied to a colour picture whose channels agree, one of RGB to grey.

    Raises:
        ProfileError: the profile is broken, or one of another colour space.
    """
    try:
        space = _space(profile)
        if space == "RGB" and image.mode in ("L", "I;16"):
            image = eight_bits(image).convert("RGB")
        elif space == "GRAY" and image.mode == "RGB":
            bands = image.split()
            if bands[0].tobytes() != bands[1].tobytes() or bands[0].tobytes() != bands[2].tobytes():
                raise ProfileError("the colour profile is one of grey, the picture has colours")
            image = bands[0]
        if {"L": "GRAY", "I;16": "GRAY"}.get(image.mode, image.mode) != space:
            raise ProfileError(f"the colour profile is one of {space}, the pixels are {image.mode}")
        # What changes no colour in 8 bits needs no more bits either.
        transform = _transform(profile, "L" if image.mode == "I;16" else image.mode)
        if transform is None:
            return eight_bits(image).convert("RGB")
        if image.mode == "I;16":
            return _deep_grey_to_srgb(image, profile)
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise ProfileError(f"the colour profile cannot be used ({type(error).__name__})") from error
    assert converted is not None  # None only where the conversion is in place
    return converted


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Returns a picture of mode LAB (CIE L*a*b*, D50) in sRGB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only where the conversion is in place
    return converted


def eight_bits(image: Image.Image) -> Image.Image:
    """Returns a picture of mode I;16 in mode L, any other as it is."""
    if image.mode != "I;16":
        return image
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def described_profile(image: Image.Image, data: bytes) -> bytes | None:
    """Returns the ICC profile of a file's pixels, None where they are sRGB or the file is silent.

    In PNG the order of the specification holds: cICP, iCCP, sRGB, gAMA and cHRM; elsewhere an ICC profile comes
    before code points. Without either, EXIF may say Adobe RGB.

    Args:
        image: the opened file.
        data: its content.

    Raises:
        ProfileError: the description makes no sense.
    """
    profile: bytes | None = image.info.get("icc_profile") or None
    if image.format == "PNG":
        return _png_profile(data, profile)
    if image.format == "JPEG2000" and profile is None:
        profile = _jp2_profile(data)
    if profile is not None:
        return profile
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile") or {}
        return coded_profile(int(nclx.get("color_primaries", 2)), int(nclx.get("transfer_characteristics", 2)))
    if image.format == "AVIF":
        return _nclx_profile(data)
    if image.format in ("JPEG", "MPO") and _exif_says_adobe_rgb(image):
        return matrix_profile(_ADOBE_RGB_PRIMARIES, _signal() ** (563 / 256))
    return None


def coded_profile(primaries: int, transfer: int, full_range: bool = True) -> bytes | None:
    """Returns the ICC profile of H.273 code points, None where they mean sRGB or nothing.

    BT.709 and its relatives (transfer 1, 6, 14, 15) are shown as sRGB, as screens do.

    Args:
        primaries: code of the colour primaries.
        transfer: code of the transfer characteristics.
        full_range: False where 16 of 255 is black and 235 white.
    """
    corners = _PRIMARIES.get(primaries, _SRGB_PRIMARIES)
    signal = _signal()
    if not full_range:
        signal = ((signal * 255 - 16) / 219).clip(0, 1)
    if transfer == _PQ:
        root = signal ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        curve = light * 10_000 / _REFERENCE_WHITE_NITS
    elif transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        curve = scene**1.2 * _HLG_PEAK_NITS / _REFERENCE_WHITE_NITS
    elif transfer == 17:
        curve = signal**2.6 * 52.37 / 48
    elif transfer in _GAMMAS:
        curve = signal ** _GAMMAS[transfer]
    elif corners == _SRGB_PRIMARIES and full_range:
        return None
    else:
        curve = _srgb_curve(signal)
    return matrix_profile(corners, curve)


def matrix_profile(corners: tuple[float, ...] | None, curve: Float64[np.ndarray, " n"]) -> bytes:
    """Returns an ICC profile (version 2) of an RGB space, or of grey.

    Args:
        corners: x and y of white, red, green and blue; None for grey.
        curve: linear light at equally spaced signals, 0..1; more is clipped.

    Raises:
        ProfileError: the corners span no colour space.
    """
    light = np.round(np.clip(curve, 0, 1) * 65535).astype(">u2")
    trc = b"curv\0\0\0\0" + struct.pack(">I", len(light)) + light.tobytes()
    tags = {b"wtpt": _xyz(_D50_XYZ)}
    if corners is None:
        tags[b"kTRC"] = trc
    else:
        columns = _to_d50(corners)
        tags |= {b"rXYZ": _xyz(columns[:, 0]), b"gXYZ": _xyz(columns[:, 1]), b"bXYZ": _xyz(columns[:, 2])}
        tags |= {b"rTRC": trc, b"gTRC": trc, b"bTRC": trc}
    places: dict[bytes, int] = {}
    bodies = b""
    offset = 128 + 4 + 12 * len(tags)
    for body in tags.values():
        if body not in places:
            places[body] = offset + len(bodies)
            bodies += body + bytes(-len(body) % 4)
    table = struct.pack(">I", len(tags))
    for name, body in tags.items():
        table += name + struct.pack(">II", places[body], len(body))
    space = b"GRAY" if corners is None else b"RGB "
    header = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(bodies), b"", 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(_D50_XYZ)[8:]
    return header.ljust(128, b"\0") + table + bodies


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start of the body and declared end of the boxes of an ISO base media or JPEG 2000 file.

    The last box may end behind the data. A size of zero, to the end of the file, ends at the data's end.
    """
    limit = len(data) if end is None else min(end, len(data))
    while start + 8 <= limit:
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= limit:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        if size == 0:
            size = limit - start
        if size < head:
            return
        yield name, start + head, start + size
        start += size


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.core.CmsProfile:
    return ImageCms.createProfile("sRGB")


@lru_cache(maxsize=32)
def _space(profile: bytes) -> str:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the conversion to sRGB, None where it changes no colour by more than a level."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), mode, "RGB", flags=_flags(mode)
    )
    if mode == "RGB":
        steps = np.linspace(0, 255, 18).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 18, 3)
    elif mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None]
    else:
        return transform
    image = Image.fromarray(probe)
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only where the conversion is in place
    change = np.asarray(converted).astype(int) - np.asarray(image.convert("RGB"))
    return None if np.abs(change).max() <= 1 else transform


def _flags(mode: str) -> ImageCms.Flags:
    # Optimised, grey is interpolated between a few points, and steep curves lose their darks.
    return ImageCms.Flags.NOOPTIMIZE if mode in ("L", "I;16") else ImageCms.Flags.NONE


def _deep_grey_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Looks the 65,536 greys up: the colour engine takes 16 bits of grey only as a ramp worth converting once."""
    ramp = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), "I;16", "RGB", flags=_flags("I;16")
    )
    table = ImageCms.applyTransform(ramp, transform)
    assert table is not None  # None only where the conversion is in place
    return Image.fromarray(np.asarray(table).reshape(-1, 3)[np.asarray(image)])


def _png_profile(data: bytes, icc: bytes | None) -> bytes | None:
    chunks = dict(_png_header_chunks(data))
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4:
        return coded_profile(cicp[0], cicp[1], full_range=bool(cicp[3]))
    if icc is not None:
        return icc
    if b"iCCP" in chunks:
        raise ProfileError("the colour profile cannot be used (it is compressed wrongly)")
    if b"sRGB" in chunks:
        return None
    gama, chrm = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    gamma = struct.unpack(">I", gama)[0] / 100_000 if len(gama) == 4 else _SRGB_LIKE_GAMMA
    if not 0.1 <= gamma <= 10:
        raise ProfileError(f"the PNG's gamma {gamma:g} makes no sense")
    corners = tuple(v / 100_000 for v in struct.unpack(">8I", chrm)) if len(chrm) == 32 else _SRGB_PRIMARIES
    like_srgb = abs(gamma / _SRGB_LIKE_GAMMA - 1) < 0.02
    if like_srgb and np.allclose(corners, _SRGB_PRIMARIES, atol=0.002):
        return None
    curve = _srgb_curve(_signal()) if like_srgb else _signal() ** (1 / gamma)
    grey = data[25:26] in (b"\0", b"\4")
    return matrix_profile(None if grey else corners, curve)


def _png_header_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 8
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        if name in (b"IDAT", b"IEND"):
            return
        yield name, data[start + 8 : start + 8 + length]
        start += length + 12


def _nclx_profile(data: bytes) -> bytes | None:
    """Returns the profile of an AVIF file's first colour box with code points."""
    for name, start, end in boxes(data):
        if name != b"meta":
            continue
        for part, first, last in boxes(data, start + 4, end):
            if part != b"iprp":
                continue
            for group, low, high in boxes(data, first, last):
                for prop, at, _ in boxes(data, low, high) if group == b"ipco" else ():
                    if prop == b"colr" and data[at : at + 4] == b"nclx" and at + 8 <= len(data):
                        return coded_profile(*struct.unpack_from(">HH", data, at + 4))
    return None


def _jp2_profile(data: bytes) -> bytes | None:
    for name, start, end in boxes(data):
        for part, at, last in boxes(data, start, end) if name == b"jp2h" else ():
            if part == b"colr" and data[at : at + 1] in (b"\2", b"\3"):
                return data[at + 3 : last]
    return None


def _exif_says_adobe_rgb(image: Image.Image) -> bool:
    try:
        index = image.getexif().get_ifd(0xA005).get(1)
    except Exception:  # broken EXIF must not cost the picture
        return False
    return index in ("R03", b"R03", b"R03\0")


def _signal() -> Float64[np.ndarray, " n"]:
    return np.linspace(0, 1, _CURVE_SAMPLES)


def _srgb_curve(signal: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _to_d50(corners: tuple[float, ...]) -> Float64[np.ndarray, "3 3"]:
    """Returns XYZ of red, green and blue as columns, adapted to D50."""
    points = np.array(corners, dtype=np.float64).reshape(4, 2)
    if not (np.isfinite(points).all() and (points[:, 1] > 1e-4).all() and (points <= 1).all()):
        raise ProfileError("the picture's chromaticities make no sense")
    xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)]) / points[:, 1]
    white, primaries = xyz[:, 0], xyz[:, 1:]
    if abs(np.linalg.det(primaries)) < 1e-6:
        raise ProfileError("the picture's chromaticities make no sense")
    columns = primaries * np.linalg.solve(primaries, white)
    cones = (_BRADFORD @ _D50_XYZ) / (_BRADFORD @ white)
    adapted = np.linalg.solve(_BRADFORD, cones[:, None] * (_BRADFORD @ columns))
    if np.abs(adapted).max() > 100:
        raise ProfileError("the picture's chromaticities make no sense")
    return adapted


def _xyz(values: Float64[np.ndarray, " 3"]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(v) * 65536) for v in values))
