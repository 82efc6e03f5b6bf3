"""ICT-FaceKit in canonical face space: the source of the shipped prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylib.errors import ConfigError
from raylib.morphable import ict

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


def read_head(path: Path) -> IctHead:
    """Returns the model from its folder of OBJ files or an array file (see `raylib.morphable.ict`).

    Raises:
        ConfigError: the path does not exist or holds something else.
    """
    try:
        kit = ict.read_ict(path)
    except (OSError, ValueError) as error:
        expected = "ICT-FaceKit: its FaceXModel folder or an array file (.npz)"
        raise ConfigError(f"ict is {str(path)!r}, expected {expected}; {error}") from error
    corners = [ict.LANDMARK_VERTS[k] for k in OUTER_EYE_CORNERS]
    # Only origin and unit differ from canonical space.
    return IctHead(
        (kit.neutral - kit.neutral[corners].mean(0)) * 10,
        kit.quads,
        kit.material,
        kit.material_names,
        kit.identity * 10,
        kit.expression * 10,
        kit.expression_names,
    )
