"""How fast synthetic faces are made, and whether a detector and the segmentation network see them.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_synthesis.py [--faces 72] [--source prior]

Processor time of one core a picture, all stages; dlib's HOG (one upsampling) by kind of light on pictures of 256 px
with yaw to 30, pitch and roll to 15 degrees; F1 of the shipped U-Net against the labels at all poses.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import dlib
import numpy as np
import torch

from raylib.config import SynthesisSettings
from raylib.segmentation import FaceSegmenter, Label
from raylib.synthesis import FaceSynthesizer, seeds_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=72)
    parser.add_argument("--source", default="prior", help="'prior' or a model file")
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

    frontal = SynthesisSettings(size_px=256, yaw_deg=30, pitch_deg=15, roll_deg=15)
    faces = FaceSynthesizer(args.source, frontal)(seeds_of("validation", args.faces, 1000))
    detector = dlib.get_frontal_face_detector()
    found = [len(detector(np.ascontiguousarray(image), 1)) > 0 for image in faces.image]
    by_light = defaultdict(list)
    for kind, one in zip(faces.light_kind, found, strict=True):
        by_light[kind].append(one)
    shares = ", ".join(f"{kind} {sum(v)}/{len(v)}" for kind, v in sorted(by_light.items()))
    print(f"HOG finds {100 * np.mean(found):.1f} % ({shares})")

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
