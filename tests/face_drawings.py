"""Drawn faces with exact labels, and writers of the datasets' own file formats for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from raylib.segmentation.labels import Label, draw_labels

_TONES = np.array(
    [(90, 120, 160), (50, 35, 25), (215, 165, 135), (245, 245, 250), (200, 120, 110), (190, 40, 60)], dtype=np.float64
)


def drawn_face(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns an RGB drawing of a face somewhere near the middle, and the label of each pixel."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    cx, cy = rng.uniform(0.45, 0.55, 2)
    r = rng.uniform(0.26, 0.34)

    def ellipse(dx: float, dy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx - dx * r) / (rx * r)) ** 2 + ((y - cy - dy * r) / (ry * r)) ** 2 < 1

    labels = np.full((size, size), Label.BACKGROUND, np.uint8)
    labels[ellipse(0, -0.2, 1.1, 1.4)] = Label.HAIR
    labels[ellipse(0, 0.15, 0.85, 1.15)] = Label.SKIN
    for side in (-0.4, 0.4):
        labels[ellipse(side, -0.05, 0.22, 0.14)] = Label.EYES
    labels[ellipse(0, 0.3, 0.16, 0.25)] = Label.NOSE
    labels[ellipse(0, 0.75, 0.38, 0.15)] = Label.MOUTH
    image = _TONES[labels] * rng.uniform(0.8, 1.1) + rng.normal(0, 6, (size, size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_fasseg_v3(root: Path, persons: int, shots: int, size: int, seed: int = 0) -> None:
    """Writes drawn faces as FASSEG's V3 lays them out: 24-bit BMP, one folder per yaw."""
    rng = np.random.default_rng(seed)
    for person in range(1, persons + 1):
        for shot in range(shots):
            yaw = ("0", "+15", "-90")[shot % 3]
            name = f"personne{person:02d}{shot + 1}46+0{'+0' if yaw == '0' else yaw}.bmp"
            image, labels = drawn_face(size, rng)
            for folder, picture in (("Train_RGB", image), ("Train_labels", draw_labels(labels))):
                path = root / "V3" / folder / yaw / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
