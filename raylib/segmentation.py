"""The declared label set."""
from __future__ import annotations
from enum import IntEnum
import numpy as np


class Label(IntEnum):
    """What a pixel shows."""

    BACKGROUND = 0
    HAIR = 1
    SKIN = 2
    EYES = 3
    NOSE = 4
    MOUTH = 5


FASSEG_COLOURS = np.array(
    [(255, 0, 0), (127, 0, 0), (255, 255, 0), (0, 0, 255), (0, 255, 255), (0, 255, 0)], dtype=np.uint8
)
