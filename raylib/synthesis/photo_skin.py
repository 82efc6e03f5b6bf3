"""Skin from photographs: albedo textures that the reconstruction job took off faces and freed of their light.

`jobs/reconstruct.py --refine 60` with the shipped prior writes for each face a texture in the prior's coordinates
from which the estimated light is divided out. Faces that it saw well give skin here; eyes and the inside of the
mouth are drawn anew, since lids and lips open differently.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from PIL import Image

from raylib.errors import ConfigError
from raylib.lighting.color import srgb_to_linear
from raylib.synthesis.atlas import CHANNELS, Atlas, atlas

_MAX_YAW_DEG = 30.0
_MIN_SEEN = 0.45
"""Share of the vertices that the photograph must have seen."""
_COLUMNS = ("status", "morphable_model", "yaw_deg", "texture_uri", "albedo", "vertex_visibility")


@lru_cache(maxsize=2)
def photo_skins(folder: str, side: int) -> tuple[Float[np.ndarray, "n 3"], ...]:
    """Returns the albedo of the atlas's texels from each usable face of a reconstruction, linear RGB.

    Args:
        folder: output of `jobs/reconstruct.py` with `--refine`, the shipped prior and without privacy.
        side: of the atlas.

    Raises:
        ConfigError: the folder has no such faces.
    """
    root = Path(folder)
    skins = [_skin(root / uri, atlas(side)) for uri in _usable(root)]
    if not skins:
        raise ConfigError(
            f"textures is {folder!r}, expected the output of jobs/reconstruct.py --refine 60 with frontal faces"
        )
    return tuple(skins)


def _usable(root: Path) -> list[str]:
    found: list[str] = []
    for part in sorted((root / "faces").glob("*.parquet")):
        for row in pq.read_table(part, columns=list(_COLUMNS)).to_pylist():
            fits = (
                row["status"] == "ok" and row["morphable_model"] == "prior" and row["texture_uri"] and row["albedo"]
            )
            if fits and abs(row["yaw_deg"]) <= _MAX_YAW_DEG and np.mean(row["vertex_visibility"]) >= _MIN_SEEN:
                found.append(row["texture_uri"])
    return sorted(found)


def _skin(file: Path, atlas: Atlas) -> Float[np.ndarray, "n 3"]:
    """Returns one texture at the atlas's texels; towards the face's edge it becomes the skin's median colour."""
    with Image.open(file) as opened:
        square = opened.convert("RGB").resize((atlas.side, atlas.side), Image.Resampling.BILINEAR)
    srgb = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255)
    albedo = srgb_to_linear(srgb).numpy().reshape(-1, 3)[atlas.texel]
    maps = dict(zip(CHANNELS, atlas.maps.T, strict=True))
    bare = (maps["rim"] > 0.99) & (maps["lip_line"] > 12) & (maps["lid_gap"] > 14) & (np.abs(maps["brow_across"]) > 9)
    tone = np.median(albedo[bare], axis=0)
    share = maps["rim"][:, None]
    return np.asarray(share * albedo + (1 - share) * tone, dtype=np.float32)
