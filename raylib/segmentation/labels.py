"""The declared label set, its drawing in FASSEG colours, and what follows from label maps."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw


class Label(IntEnum):
    """What a pixel shows; the order is FASSEG's.

    Brows count as hair, ears and neck as skin, teeth and tongue as mouth. Clothes, hats, jewellery and whatever
    else covers a face (hands, dark glasses, objects) are background.
    """

    BACKGROUND = 0
    HAIR = 1
    SKIN = 2
    EYES = 3
    NOSE = 4
    MOUTH = 5


FACE_LABELS = (Label.SKIN, Label.EYES, Label.NOSE, Label.MOUTH)
"""Labels of bare, uncovered face and neck."""

FASSEG_COLOURS = np.array(
    [(255, 0, 0), (127, 0, 0), (255, 255, 0), (0, 0, 255), (0, 255, 255), (0, 255, 0)], dtype=np.uint8
)
"""(6 3) colour of each label, as FASSEG draws its maps and MeshNet receives them."""


def draw_labels(labels: UInt8[np.ndarray, "*b h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """Returns label maps as RGB pictures in FASSEG's colours."""
    return FASSEG_COLOURS[labels]


def snap_to_labels(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Returns the label whose FASSEG colour is nearest to each pixel (edges in label pictures are anti-aliased)."""
    packed = (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
    # A label picture has few colours: measure each once.
    colours, inverse = np.unique(packed, return_inverse=True)
    channels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.int64)
    distance = ((channels[:, None] - FASSEG_COLOURS.astype(np.int64)) ** 2).sum(-1)
    return distance.argmin(1).astype(np.uint8)[inverse].reshape(packed.shape)


def face_mask(labels: UInt8[np.ndarray, "*b h w"]) -> Bool[np.ndarray, "*b h w"]:
    """Returns where the face or neck itself is seen: neither hair, nor background, nor an occluder."""
    return np.isin(labels, FACE_LABELS)


def region_fractions(labels: UInt8[np.ndarray, "h w"]) -> dict[str, float]:
    """Returns each label's share of the crop's pixels under its lower-case name; they add up to 1."""
    counts = np.bincount(labels.ravel(), minlength=len(Label))
    return {label.name.lower(): float(counts[label] / labels.size) for label in Label}


def occlusion(labels: UInt8[np.ndarray, "h w"], landmarks: Float[np.ndarray, "68 2"]) -> float:
    """Returns the share of the face that something covers, 0..1: an estimate from labels and landmarks.

    The face is the polygon of the jaw line and the brows, less a band along the brows themselves; of its pixels,
    those labelled background (hands, objects, dark glasses) or hair count as covered. A beard is labelled skin and
    does not count. Landmarks are placed as if nothing covered the face, so that the polygon reaches under the
    occluder. An uncovered frontal face has about 0.01.

    Args:
        labels: of a face crop.
        landmarks: Multi-PIE order, x and y in the crop's pixels.
    """
    canvas = Image.new("1", (labels.shape[1], labels.shape[0]))
    draw = ImageDraw.Draw(canvas)
    outline = [(float(x), float(y)) for x, y in np.concatenate([landmarks[:17], landmarks[26:16:-1]])]
    draw.polygon(outline, fill=1)
    # Brows are about a fifth as thick as the eyes are apart.
    thick = max(1, round(0.4 * float(np.linalg.norm(landmarks[36:42].mean(0) - landmarks[42:48].mean(0)))))
    for brow in (landmarks[17:22], landmarks[22:27]):
        draw.line([(float(x), float(y)) for x, y in brow], fill=0, width=thick)
    face = np.asarray(canvas)
    return float(1 - face_mask(labels[face]).mean()) if face.any() else 0.0


def brow_band(landmarks: Float[np.ndarray, "68 2"], shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Returns where brows may be: hair there belongs to the face, since the label set counts brows as hair.

    Args:
        landmarks: 68 points in pixels of the label map.
        shape: height and width of the label map.
    """
    canvas = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(canvas)
    eyes = landmarks[36:42].mean(axis=0) - landmarks[42:48].mean(axis=0)
    thick = max(1, round(0.22 * float(np.linalg.norm(eyes))))
    for brow in (landmarks[17:22], landmarks[22:27]):
        draw.line([(float(x), float(y)) for x, y in brow], fill=1, width=thick)
    return np.asarray(canvas)
