"""Pictures that a face detector takes for faces and that are none: halves glued together, drawings, statues."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from raylib.detection.detector import Face


def halves(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of one aligned crop beside half of another, cut near the middle; or one above the other."""
    size = len(a)
    cut = int(size * rng.uniform(0.46, 0.54))
    if rng.random() < 0.75:
        return np.concatenate([a[:, :cut], b[:, cut:]], axis=1)
    cut = int(size * rng.uniform(0.46, 0.62))
    return np.concatenate([a[:cut], b[cut:]], axis=0)


def drawing_of(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph as a drawing of one of several styles."""
    image = Image.fromarray(rgb)
    how = rng.integers(5)
    smooth = image.filter(ImageFilter.MedianFilter(7)).filter(ImageFilter.MedianFilter(7))
    edges = ImageOps.invert(smooth.convert("L").filter(ImageFilter.FIND_EDGES))
    lines = edges.point(lambda v: 255 if v > 225 else 20)
    if how == 0:  # pencil: the picture divided by its own blur
        grey = np.asarray(image.convert("L"), np.float32)
        blurred = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(6)), np.float32)
        return np.repeat(np.clip(255 * grey / (blurred + 1), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if how == 1:
        return np.asarray(ImageOps.posterize(smooth, int(rng.integers(1, 3))))
    if how == 2:  # flat colours with outlines
        flat = smooth.quantize(int(rng.integers(4, 9)), dither=Image.Dither.NONE).convert("RGB")
        return np.asarray(Image.composite(flat, Image.new("RGB", image.size, (20, 20, 20)), lines))
    if how == 3:
        return np.asarray(lines.convert("RGB"))
    flat = smooth.quantize(int(rng.integers(5, 12)), dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(flat.filter(ImageFilter.ModeFilter(9)))


def cartoon(rng: np.random.Generator, size: int = 320) -> np.ndarray:
    """A face of ellipses and lines."""
    skin = tuple(int(v) for v in rng.uniform((190, 130, 100), (250, 215, 190)))
    image = Image.new("RGB", (size, size), tuple(int(v) for v in rng.uniform(120, 255, 3)))
    draw = ImageDraw.Draw(image)
    c, r = size / 2 + rng.uniform(-10, 10, 2), size * rng.uniform(0.27, 0.36)
    line = tuple(int(v) for v in rng.uniform(0, 70, 3))

    def ellipse(dx: float, dy: float, rx: float, ry: float, fill: tuple[int, ...], width: int = 0) -> None:
        x, y = c[0] + dx * r, c[1] + dy * r
        box = (x - rx * r, y - ry * r, x + rx * r, y + ry * r)
        draw.ellipse(box, fill=fill, outline=line if width else None, width=max(width, 1))

    hair = tuple(int(v) for v in rng.uniform(10, 140, 3))
    ellipse(0, -0.25, 1.1, rng.uniform(1.1, 1.35), hair)
    ellipse(0, 0.1, rng.uniform(0.8, 0.9), rng.uniform(1.05, 1.2), skin, int(rng.integers(0, 4)))
    eye_y, apart = rng.uniform(-0.15, 0.0), rng.uniform(0.33, 0.42)
    for side in (-1, 1):
        ellipse(side * apart, eye_y, rng.uniform(0.15, 0.22), rng.uniform(0.08, 0.14), (250, 250, 250), 2)
        ellipse(side * apart, eye_y, 0.08, 0.08, hair)
        x, y = c[0] + side * apart * r, c[1] + (eye_y - 0.24) * r
        draw.line((x - 0.22 * r, y, x + 0.22 * r, y - 0.03 * r * side), fill=hair, width=max(3, int(0.07 * r)))
    shade = tuple(int(0.8 * v) for v in skin)
    points = [(c[0], c[1] + eye_y * r), (c[0] - 0.16 * r, c[1] + 0.38 * r), (c[0] + 0.16 * r, c[1] + 0.38 * r)]
    draw.polygon(points, fill=shade)
    ellipse(0, 0.7, rng.uniform(0.25, 0.4), rng.uniform(0.06, 0.14), (180, 60, 60), 2)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5)))))


def statue_of(rgb: np.ndarray, face: Face) -> np.ndarray:
    """A photograph in the tone of stone, without irises, brows and the colour of lips. A weak stand-in."""
    grey = Image.fromarray(rgb).convert("L")
    flat = grey.filter(ImageFilter.GaussianBlur(max(2.0, 0.02 * float(face.face_box[2] - face.face_box[0]))))
    mask = Image.new("L", grey.size)
    draw = ImageDraw.Draw(mask)
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        draw.polygon([tuple(p) for p in face.landmarks[part].tolist()], fill=255, outline=255, width=6)
    mask = mask.filter(ImageFilter.GaussianBlur(3))
    stone = np.asarray(Image.composite(flat, grey, mask), np.float32) * 0.6 + 90
    return np.clip(stone[..., None] * np.array([1.0, 0.98, 0.94]), 0, 255).astype(np.uint8)
