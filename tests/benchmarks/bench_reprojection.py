"""Landmark reprojection of fitted faces on photographs, as a share of the inter-ocular distance.

    python tests/benchmarks/bench_reprojection.py FOLDER... [--model prior] [--fov-deg 30]

Mean over all 68 landmarks, jaw included, divided by the distance of the outer eye corners (as in 300-W). A jaw
landmark is compared with the vertex that it slid to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from raylib.config import FaceSettings, FitSettings
from raylib.detection.detector import FaceDetector
from raylib.errors import ImageError
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import focal_from_fov
from raylib.io.images import decode
from raylib.morphable.readers import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="prior", help="'prior' or a model file")
    parser.add_argument("--fov-deg", type=float, default=30.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    detector, fitter = FaceDetector(FaceSettings()), LandmarkFitter(load_model(args.model), FitSettings())
    print("| folder | faces | mean, % | median, % | jaw, % | faces over 5 % |\n|---|---|---|---|---|---|")
    for folder in args.folders:
        landmarks, sizes = [], []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                rgb = decode(path.read_bytes(), 10**8).rgb
            except ImageError:
                continue
            for face in detector(rgb):
                landmarks.append(torch.as_tensor(face.landmarks, dtype=torch.float32))
                sizes.append((float(rgb.shape[1]), float(rgb.shape[0])))
        size, px = torch.tensor(sizes), torch.stack(landmarks)
        fit = fitter.fit(px, focal_from_fov(args.fov_deg, size.amax(1)), size / 2)
        e = 100 * fit.error_iod
        inter_ocular = (px[:, 36] - px[:, 45]).norm(dim=1)
        jaw = 100 * ((fit.landmarks_px - px).norm(dim=2)[:, :17].nanmean(1) / inter_ocular).mean()
        over = int((e > 5).sum())
        print(f"| {folder.name} | {len(e)} | {e.mean():.2f} | {e.median():.2f} | {jaw:.2f} | {over} |")


if __name__ == "__main__":
    main()
