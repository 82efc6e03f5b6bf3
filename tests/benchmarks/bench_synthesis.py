"""How fast synthetic faces are made, and whether a detector and the segmentation network see them.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_synthesis.py [--faces 72] [--source prior] [--first 9000]

Processor time of one core a picture, all stages; F1 of the shipped U-Net against the labels at all poses; and how
many faces dlib's HOG finds (one upsampling) on pictures of 256 px among those that are turned from the camera by at
most 30 degrees in all and rolled by up to 20: by that angle, yaw, pitch and kind of light.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import dlib
import numpy as np
import torch

from raylib.config import SynthesisSettings
from raylib.segmentation.labels import Label
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.synthesis import FaceSynthesizer, seeds_of


def _detect(source: str, count: int, first: int) -> None:
    """Prints how many of `count` faces dlib's HOG finds."""
    make = FaceSynthesizer(source, SynthesisSettings(size_px=256, yaw_deg=30, pitch_deg=30, roll_deg=20))
    detector = dlib.get_frontal_face_detector()
    groups: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in ("turn", "yaw", "pitch", "light")}
    found: list[bool] = []
    for seed in seeds_of("validation", 2 * count + 20, first):
        faces = make([seed])
        turn = faces.turn_deg[0]
        if turn > 30 or len(found) == count:
            continue
        found.append(len(detector(np.ascontiguousarray(faces.image[0]), 1)) > 0)
        yaw, pitch, _ = faces.pose_deg[0]
        for name, value in (("turn", turn), ("yaw", abs(yaw)), ("pitch", pitch)):
            low = 10 * int(np.floor(value / 10))
            groups[name][f"{low:3d} to {low + 10}"].append(found[-1])
        groups["light"][str(faces.light_kind[0])].append(found[-1])
    print(f"HOG finds {sum(found)} of {len(found)}, {100 * np.mean(found):.1f} %")
    for name, by in groups.items():
        print(f"  by {name}: " + ", ".join(f"{key} {sum(v)}/{len(v)}" for key, v in sorted(by.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=72)
    parser.add_argument("--source", default="prior", help="'prior' or a model file")
    parser.add_argument("--first", type=int, default=9000, help="number of the first validation picture for HOG")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for size in (128, 256):
        make = FaceSynthesizer(args.source, SynthesisSettings(size_px=size))
        make([0])
        times = []
        for seed in seeds_of("test", args.faces):
            start = time.thread_time()
            make([seed])
            times.append(time.thread_time() - start)
        print(f"{size} px: {np.median(times) * 1e3:.0f} ms a picture (median), {np.mean(times) * 1e3:.0f} (mean)")

    _detect(args.source, args.faces, args.first)

    faces = FaceSynthesizer(args.source, SynthesisSettings(size_px=256))(seeds_of("validation", args.faces))
    segmenter = FaceSegmenter(device="cpu")
    seen = np.concatenate([segmenter.segment(faces.image[i : i + 8]) for i in range(0, len(faces), 8)])
    confusion = np.zeros((6, 6), np.int64)
    np.add.at(confusion, (faces.labels.ravel(), seen.ravel()), 1)
    f1 = 2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))
    print(
        f"U-Net: mean F1 {f1.mean():.3f}, "
        + ", ".join(f"{n.name.lower()} {v:.3f}" for n, v in zip(Label, f1, strict=True))
    )


if __name__ == "__main__":
    main()
