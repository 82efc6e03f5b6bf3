"""Pictures from files that break off, and how many of their rows the files really hold.

A file is given two different endings and decoded onto two different canvases: rows on which both agree are decoded,
the others depend on what is missing. This holds for every codec, whatever it does about data that are not there.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ImageFile

from raylib.io.color_profiles import boxes

ENOUGH = 0.95
"""Share of the rows from which on a picture is used."""

_END_OF_JPEG = b"\xff\xd9"
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTORABLE = 0.25  # a file that lacks more than this share of its bytes holds no 95 % of its rows
_CANVASES = (0, 255)


@dataclass(frozen=True)
class Incomplete:
    """What could be decoded of a file that breaks off.

    Attributes:
        image: loaded; its missing rows are black, or what the codec makes of them.
        rows: decoded rows.
        height: rows of the picture.
        lacks_detail: True where a progressive JPEG lacks scans that only refine.
    """

    image: ImageFile.ImageFile
    rows: int
    height: int
    lacks_detail: bool = False

    @property
    def share(self) -> float:
        """The decoded share of the rows."""
        return self.rows / self.height

    def __str__(self) -> str:
        detail = ", without the last scans of detail" if self.lacks_detail else ""
        return f"the file breaks off: {self.rows} of {self.height} rows ({self.share:.1%}) are decoded{detail}"


def recover(data: bytes, open_image: Callable[[bytes], ImageFile.ImageFile]) -> Incomplete | None:
    """Returns what can be decoded of a file that decoding failed on; None if nothing at all.

    Args:
        data: content of the file.
        open_image: opens an image by its header, and refuses what is not to be decoded.
    """
    if data.startswith(b"\xff\xd8"):
        data = data.rstrip(b"\0")  # room that a download had reserved
    images = []
    for completed, canvas in zip(_completed(data), _CANVASES, strict=True):
        image = _loaded_in_part(completed, open_image, canvas)
        if image is None:
            return None
        images.append(image)
    first, second = (np.asarray(image) for image in images)
    if first.shape != second.shape:
        return None
    same = (first == second).reshape(*first.shape[:2], -1).all(axis=2)
    decoded = same.all(axis=1)
    if images[0].format == "TIFF" and same.all(axis=0).sum() > decoded.sum():
        decoded = same.all(axis=0)  # its orientation has made the rows columns already
    rows, height = int(decoded.sum()), len(decoded)
    if not data.startswith(b"\xff\xd8"):
        return Incomplete(images[0], rows, height)
    stage = _jpeg_stage(data)
    if stage == "missing":
        rows = 0
    elif stage == "refining" or (stage == "last" and rows < height):
        return Incomplete(images[0], height, height, lacks_detail=True)
    return Incomplete(images[0], rows, height)


def jpeg_ends(data: bytes) -> bool:
    """Returns whether a JPEG file holds the marker that ends its pixels; other data may follow it."""
    if data.endswith(_END_OF_JPEG):
        return True
    at = 2
    while match := _JPEG_MARKER.search(data, at):
        at = match.end()
        if match.group()[1] == 0xDA:  # coded pixels hold no such bytes
            return data.find(_END_OF_JPEG, at) >= 0
        if at + 2 > len(data):
            break
        at += struct.unpack_from(">H", data, at)[0]
    return False


def _loaded_in_part(
    data: bytes, open_image: Callable[[bytes], ImageFile.ImageFile], canvas: int
) -> ImageFile.ImageFile | None:
    """Returns an image whose pixels are decoded as far as they go, on a canvas of one value."""
    try:
        image = open_image(data)
    except (OSError, SyntaxError, ValueError):
        return None
    prepare = image.load_prepare

    def prepare_canvas() -> None:
        prepare()
        core = image.im
        core.paste(canvas if core.bands == 1 else (canvas,) * core.bands, (0, 0, *core.size))

    image.load_prepare = prepare_canvas  # type: ignore[method-assign]
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:  # codecs raise nearly everything on broken files
        if getattr(image, "_im", None) is None:
            return None
        if image.tile:  # the failure came before the last step of loading
            image.tile = []
            with contextlib.suppress(Exception):  # nothing but metadata lies behind the pixels
                image.load_end()
    return image


def _completed(data: bytes) -> tuple[bytes, bytes]:
    """Returns a file with two unlike ends up to its proper length, as it is where its decoder stops by itself."""
    room = int(len(data) * _RESTORABLE) + 4096
    if data.startswith(b"\xff\xd8"):
        return data + _END_OF_JPEG, data + _noisy_scan(data, room) + _END_OF_JPEG
    if data[:4] == b"RIFF" and len(data) >= 12:
        return _filled(data, struct.unpack_from("<I", data, 4)[0] + 8)
    if data[:2] in (b"P1", b"P2", b"P3"):
        return data + b" 0" * room, data + b" 1" * room
    if data[:1] == b"P":
        return data + bytes(room), data + _noise(room)
    if _START_OF_CODESTREAM in data[:65536] and (end := _codestream_end(data)):
        zeros, noise = _filled(data[:end], end)
        return zeros + _END_OF_JPEG, noise + _END_OF_JPEG
    if data[4:8] == b"ftyp":
        return _filled(data, max((end for _, _, end in boxes(data)), default=0))
    return data, data


def _filled(data: bytes, end: int) -> tuple[bytes, bytes]:
    missing = end - len(data)
    if not 0 < missing <= len(data) * _RESTORABLE + 4096:
        return data, data
    return data + bytes(missing), data + _noise(missing)


def _noisy_scan(data: bytes, length: int) -> bytes:
    """Returns noise that reaches every row of a JPEG scan, past its restart markers."""
    if b"\xff\xdd\x00\x04" not in data[: 1 << 20]:
        return _noise(length)
    markers = [data.rfind(bytes((0xFF, kind))) for kind in range(0xD0, 0xD8)]
    last = int(np.argmax(markers)) if max(markers) >= 0 else 7
    before = max((at for at in markers if at < max(markers)), default=-1)
    interval = max(64, max(markers) - before if before >= 0 else length)
    noise = _noise(length + interval)
    return b"".join(
        noise[at : at + interval] + bytes((0xFF, 0xD0 + (last + 1 + n) % 8))
        for n, at in enumerate(range(0, length, interval))
    )


def _noise(count: int) -> bytes:
    """Returns bytes that follow no pattern, the same each time, none of which starts a JPEG marker."""
    return np.random.default_rng(1).integers(0, 255, count, dtype=np.uint8).tobytes()


def _codestream_end(data: bytes) -> int | None:
    """Returns where the last begun tile part of a JPEG 2000 codestream ends, None if the file does not say."""
    at = data.find(_START_OF_CODESTREAM) + 2
    end = None
    while at + 12 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:
            (part,) = struct.unpack_from(">I", data, at + 6)
            if part < 14:
                return end
            end = at = at + part
        elif end is None and marker >= 0xFF00 and length >= 2:
            at += 2 + length
        else:
            return end
    return end


def _jpeg_stage(data: bytes) -> str:
    """Returns how far the scans of a JPEG file go, which breaks off.

    Returns:
        `sending` if some coefficients are first sent in the last scan begun, `missing` if some are in none; else
        `last` if the last scan begun makes all of them exact, `refining` if more scans had to follow.
    """
    components: set[int] = set()
    inexact: dict[tuple[int, int], int] = {}
    sent: set[tuple[int, int]] = set()
    new: set[tuple[int, int]] = set()
    at = 2
    while match := _JPEG_MARKER.search(data, at):
        at, kind = match.end(), match.group()[1]
        if at + 2 > len(data) or kind == 0xD9:
            break
        body = data[at + 2 : at + struct.unpack_from(">H", data, at)[0]]
        at += 2 + len(body)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            components = set(body[6::3])
        elif kind == 0xDA and body and len(body) >= 4 + 2 * body[0]:
            first, last = body[-3], min(body[-2], 63)
            sent |= new
            scan = {(c, k) for c in body[1 : 1 + 2 * body[0] : 2] for k in range(first, last + 1)}
            new = scan - sent
            inexact |= dict.fromkeys(scan, body[-1] & 0x0F)
    wanted = {(c, k) for c in components for k in range(64)}
    if not wanted or wanted - sent - new:
        return "missing"
    if not wanted <= sent:
        return "sending"
    return "refining" if any(inexact.values()) else "last"
