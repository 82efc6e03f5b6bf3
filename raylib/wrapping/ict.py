"""Reading ICT-FaceKit, the source of the shipped prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylib.errors import ConfigError

# fmt: off
LANDMARKS = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443,
    268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147,
    4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081,
    0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
# fmt: on
"""ICT vertices of the 68 landmarks in Multi-PIE order, as the model's own `vertex_indices.json` lists them."""

OUTER_EYE_CORNERS = (36, 45)


@dataclass(frozen=True)
class IctHead:
    """The ICT-FaceKit head model in canonical face space (see `camera`), millimetres.

    Attributes:
        verts: neutral mean head; 0..9408 are the face sheet, eyeballs and teeth lie further back.
        quads: four vertices a face, the last one -1 in a triangle.
        material: index into `material_names` of each face.
        material_names: names of the parts.
        identity: displacement of one standard deviation a mode.
        expression: displacement of a full blendshape.
        expression_names: their names.
    """

    verts: NDArray[np.float64]
    quads: NDArray[np.int64]
    material: NDArray[np.int64]
    material_names: tuple[str, ...]
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    expression_names: tuple[str, ...]


def read_ict(path: Path) -> IctHead:
    """Returns the model from an array file (`neutral`, `faces`, `material`, `identity`, `expression`, ... in .npz).

    Raises:
        ConfigError: the file is missing or is not such an array file.
    """
    try:
        with np.load(path) as data:
            neutral = data["neutral"].astype(np.float64)
            corners = [LANDMARKS[k] for k in OUTER_EYE_CORNERS]
            # ICT is in centimetres, right-handed, y up, z out of the face: only origin and unit differ from ours.
            verts = (neutral - neutral[corners].mean(0)) * 10
            return IctHead(
                verts,
                data["faces"].astype(np.int64),
                data["material"].astype(np.int64),
                tuple(str(x) for x in data["material_names"]),
                data["identity"].astype(np.float32) * 10,
                data["expression"].astype(np.float32) * 10,
                tuple(str(x) for x in data["expression_names"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"ict is {str(path)!r}, expected an ICT-FaceKit array file (.npz): {error}") from error
