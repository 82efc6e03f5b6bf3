"""Where to look for faces in a photograph: sizes, tiles and rotations, and which of several sightings to keep.

Knows nothing of any detector but the size of the smallest face that it sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

WINDOW_PX = 80
"""Side of the smallest face that the detector sees in a picture."""
SMALLEST_FACE_PX = 40.0
"""Side of the smallest face of a photograph that is looked for."""
_TILE_PX = 1600
_OVERLAP_PX = 208  # two and a half windows: a larger face is seen by the next coarser level
_SAME_FACE = 0.35  # intersection over union, or 0.7 of the smaller box inside the larger
_BLOCK_PX = 16  # of the photograph, over which contrast is measured
_MIN_CONTRAST = 3.0  # standard deviation in grey levels in a face's block; sky and walls have less
ROTATIONS_DEG = (90.0, 270.0, 180.0, 45.0, 315.0, 135.0, 225.0)
"""Rolls that are looked for where an upright look does not do: a detector bears 25 degrees of either."""


@dataclass(frozen=True)
class Detection:
    """A sighting of a face.

    Attributes:
        box: left, top, right, bottom in pixels of the photograph; of a tilted face, the square of the same centre
            and size.
        score: the detector's.
        roll_deg: about how far the face tilts clockwise in the photograph.
    """

    box: Float[np.ndarray, " 4"]
    score: float
    roll_deg: float = 0.0


Detector = Callable[[UInt8[np.ndarray, "h w *c"]], list[Detection]]
"""Returns the faces of a picture, in its pixels."""


def resized(picture: UInt8[np.ndarray, "h w *c"], scale: float) -> UInt8[np.ndarray, "h2 w2 *c"]:
    """Returns the picture with `scale` of its pixels to one, smoothed where it is reduced."""
    if scale == 1:
        return picture
    size = (max(1, round(picture.shape[1] / scale)), max(1, round(picture.shape[0] / scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def whole(picture: UInt8[np.ndarray, "h w *c"], detector: Detector, scale: float) -> list[Detection]:
    """Returns the faces seen in the whole picture with `scale` of its pixels to one, in its pixels."""
    return [_grown(d, scale, np.zeros(2)) for d in detector(resized(picture, scale))]


def finer_scales(shape: tuple[int, ...], coarse: float, most_megapixels: float) -> list[float]:
    """Returns how many pixels of a photograph are one of each finer level, the finest last.

    Levels halve in size. The finest shows faces of `SMALLEST_FACE_PX` at the detector's window, or what
    `most_megapixels` allow: it has no more pixels, all levels together a third more, and their tiles' overlap.

    Args:
        shape: height and width of the photograph.
        coarse: scale at which all of it has been searched.
        most_megapixels: millions of pixels of the finest level.
    """
    if most_megapixels <= 0:
        return []
    finest = max(SMALLEST_FACE_PX / WINDOW_PX, math.sqrt(shape[0] * shape[1] / (most_megapixels * 1e6)))
    scales = []
    while finest < 0.8 * coarse:
        scales.append(finest)
        finest *= 2
    return scales[::-1]


def in_tiles(
    picture: UInt8[np.ndarray, "h w *c"], detector: Detector, scale: float, known: Sequence[Detection]
) -> list[Detection]:
    """Returns the faces seen at a finer scale, tile by tile; leaves out what is plain, and the inside of known faces.

    Args:
        picture: photograph, in colour or grey.
        detector: looks at each tile.
        scale: photograph pixels that are one pixel of a tile.
        known: faces that coarser levels have found.
    """
    worth = _worth_a_look(picture, known)
    step, reach = (_TILE_PX - _OVERLAP_PX) * scale, _TILE_PX * scale
    found = []
    for top in _starts(picture.shape[0], step, reach):
        for left in _starts(picture.shape[1], step, reach):
            corner = _bounds(worth, top, left, reach, picture.shape)
            if corner is None:
                continue
            y0, x0, y1, x1 = corner
            tile = resized(np.ascontiguousarray(picture[y0:y1, x0:x1]), scale)
            found += [_grown(d, scale, np.array([x0, y0], float)) for d in detector(tile)]
    return found


def rotated(picture: UInt8[np.ndarray, "h w *c"], detector: Detector, roll_deg: float) -> list[Detection]:
    """Returns the faces that tilt clockwise by about `roll_deg`, seen in a copy that is turned back by it."""
    turned = np.asarray(Image.fromarray(picture).rotate(roll_deg, Image.Resampling.BILINEAR, expand=True))
    angle = math.radians(roll_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle, middle_turned = np.array(picture.shape[1::-1]) / 2, np.array(turned.shape[1::-1]) / 2
    found = []
    for d in detector(turned):
        centre = turn @ ((d.box[:2] + d.box[2:]) / 2 - middle_turned) + middle
        half = (d.box[2:] - d.box[:2]) / 2
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        found.append(Detection(box, d.score, (d.roll_deg + roll_deg + 180) % 360 - 180))
    return found


def distinct(found: Sequence[Detection]) -> list[Detection]:
    """Returns one sighting of each face, the one with the highest score (non-maximum suppression)."""
    kept: list[Detection] = []
    for d in sorted(found, key=lambda d: (-d.score, *d.box.tolist())):
        if not among(d, kept):
            kept.append(d)
    return kept


def among(d: Detection, others: Sequence[Detection]) -> bool:
    """Tells whether a sighting is of the same face as one of others."""
    return any(_same(d.box, other.box) for other in others)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    inside = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (inside <= 0).any():
        return False
    both, area_a, area_b = float(inside.prod()), float((a[2:] - a[:2]).prod()), float((b[2:] - b[:2]).prod())
    return both > _SAME_FACE * (area_a + area_b - both) or both > 0.7 * min(area_a, area_b)


def _grown(d: Detection, scale: float, corner: np.ndarray) -> Detection:
    offset = np.concatenate([corner, corner])
    return replace(d, box=(d.box * scale + offset).astype(np.float32))


def _starts(length: int, step: float, reach: float) -> list[int]:
    count = max(1, math.ceil((length - reach) / step) + 1)
    return [round(i * max(0.0, length - reach) / max(1, count - 1)) for i in range(count)]


def _worth_a_look(picture: np.ndarray, known: Sequence[Detection]) -> Bool[np.ndarray, "r c"]:
    """Tells which blocks of a photograph have contrast and do not lie inside a known face."""
    grey = Image.fromarray(picture).convert("L").reduce(2)
    rows, columns = math.ceil(grey.height * 2 / _BLOCK_PX), math.ceil(grey.width * 2 / _BLOCK_PX)
    per = _BLOCK_PX // 2
    pad = ((0, rows * per - grey.height), (0, columns * per - grey.width))
    levels = np.pad(np.asarray(grey, np.float32), pad, mode="edge").reshape(rows, per, columns, per)
    worth: np.ndarray = levels.std(axis=(1, 3)) >= _MIN_CONTRAST
    for d in known:
        x0, y0 = np.ceil(d.box[:2] / _BLOCK_PX).astype(int).clip(0)
        x1, y1 = np.floor(d.box[2:] / _BLOCK_PX).astype(int).clip(0)
        worth[y0:y1, x0:x1] = False
    return worth


def _bounds(
    worth: np.ndarray, top: int, left: int, reach: float, shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Returns the part of a tile that holds all that is worth a look, with a margin, or None."""
    end_y, end_x = min(shape[0], math.ceil(top + reach)), min(shape[1], math.ceil(left + reach))
    part = worth[top // _BLOCK_PX : math.ceil(end_y / _BLOCK_PX), left // _BLOCK_PX : math.ceil(end_x / _BLOCK_PX)]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return None
    margin = 3
    y0 = max(top, (top // _BLOCK_PX + int(rows[0]) - margin) * _BLOCK_PX)
    x0 = max(left, (left // _BLOCK_PX + int(columns[0]) - margin) * _BLOCK_PX)
    y1 = min(end_y, (top // _BLOCK_PX + int(rows[-1]) + 1 + margin) * _BLOCK_PX)
    x1 = min(end_x, (left // _BLOCK_PX + int(columns[-1]) + 1 + margin) * _BLOCK_PX)
    return y0, x0, y1, x1
