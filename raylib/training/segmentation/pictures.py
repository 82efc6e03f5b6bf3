"""Pictures of a segmentation beside the photograph and its labels."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raylib.datasets.labelled import IGNORE
from raylib.segmentation.labels import draw_labels


def comparison_row(
    image: UInt8[np.ndarray, "h w 3"],
    guess: UInt8[np.ndarray, "h w"],
    truth: UInt8[np.ndarray, "h w"],
    side: int = 160,
) -> UInt8[np.ndarray, "r c 3"]:
    """Returns photograph, prediction and truth side by side, each scaled into a square of `side` pixels."""
    drawn = draw_labels(np.where(truth == IGNORE, 0, truth).astype(np.uint8))
    row = Image.new("RGB", (3 * side, side))
    for column, picture in enumerate((image, draw_labels(guess), drawn)):
        tile = Image.fromarray(picture)
        tile.thumbnail((side, side), Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST)
        row.paste(tile, (column * side + (side - tile.width) // 2, (side - tile.height) // 2))
    return np.asarray(row)


def contact_sheet(rows: list[UInt8[np.ndarray, "r c 3"]], columns: int = 3) -> Image.Image:
    """Returns rows of photograph, prediction and truth laid out in some columns."""
    height = math.ceil(len(rows) / columns)
    tall, wide = rows[0].shape[:2]
    sheet = Image.new("RGB", (columns * (wide + 8), height * (tall + 4)), "white")
    for index, row in enumerate(rows):
        sheet.paste(Image.fromarray(row), (index % columns * (wide + 8), index // columns * (tall + 4)))
    return sheet
