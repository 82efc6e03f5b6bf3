"""Whether painted brows and sockets are where photographs have them, and as dark.

    python jobs/reconstruct.py --input PORTRAITS --refine 60 --output SKINS
    python tests/benchmarks/bench_skin.py SKINS

Albedo of the photographs' textures and of drawn skin in the same texels, each face's relative to its median: in bands
of 2 mm across the brow (above the line of the brow's landmarks) and away from the lids.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from jaxtyping import Bool

from raylib.config import SynthesisSettings
from raylib.lighting.color import LUMINANCE, srgb_to_linear
from raylib.synthesis import FaceSynthesizer, seeds_of
from raylib.synthesis.atlas import CHANNELS, atlas
from raylib.synthesis.photo_skin import photo_skins

SIDE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skins", help="output of jobs/reconstruct.py --refine 60")
    parser.add_argument("--faces", type=int, default=60, help="drawn ones")
    args = parser.parse_args()
    places = atlas(SIDE)
    maps = dict(zip(CHANNELS, places.maps.T, strict=True))
    photographed = [skin @ LUMINANCE for skin in photo_skins(args.skins, SIDE)]
    settings = SynthesisSettings(size_px=64, texture_px=SIDE, expressions=0)
    textures = FaceSynthesizer("prior", settings)(seeds_of("train", args.faces)).texture
    linear = srgb_to_linear(torch.from_numpy(textures).float() / 255).numpy()
    drawn = list(linear.reshape(args.faces, -1, 3)[:, places.texel] @ LUMINANCE)
    print(f"{len(photographed)} faces of photographs, {args.faces} drawn")

    def show(what: str, where: Bool[np.ndarray, " n"]) -> None:
        if where.sum() >= 20:
            means = [
                np.mean([skin[where].mean() / np.median(skin) for skin in skins]) for skins in (photographed, drawn)
            ]
            print(f"{what:>28} mm: photographs {means[0]:.2f}, drawn {means[1]:.2f}")

    within = (maps["brow_along"] > 0.15) & (maps["brow_along"] < 0.85)
    for low in range(-16, 6, 2):
        across = maps["brow_across"]
        show(f"across the brow {low:3d} to {low + 2:3d}", within & (across >= low) & (across < low + 2))
    for name, side in (("upper", maps["lid_upper"] > 0.6), ("lower", maps["lid_upper"] < 0.4)):
        for low in range(0, 14, 2):
            gap = maps["lid_gap"]
            band = side & (maps["eye"] < 0.01) & (gap >= low) & (gap < low + 2)
            show(f"{name} lid {low:2d} to {low + 2:2d}", band & ~((name == "upper") & (maps["brow_across"] > -12)))


if __name__ == "__main__":
    main()
