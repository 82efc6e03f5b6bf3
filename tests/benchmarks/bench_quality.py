"""How well `quality` tells faces from what is none, and the coefficients that it weighs evidence by.

    .venv/bin/python tests/benchmarks/bench_quality.py --data ../shared/data --samples quality.npz [--write]

Measures the evidence of good faces (HELEN, CelebAMask, FASSEG up to 30 degrees, portraits, synthetic ones, and the
same tilted, small, grey, noisy and compressed) and of bad ones (false detections, halves of two faces, sideways faces
with landmarks forced upright, boxes on half of a face, drawings, heads turned by 60 degrees and more), fits the
regressions on three fifths of the sources and judges them on the rest. Evidence is kept in `--samples` and measured
again only where that file is absent. `--write` replaces `raylib/weights/quality.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from raylib.config import FaceSettings, ReconstructConfig, SynthesisSettings
from raylib.detection.alignment import CROP_PX, FoundFace, Patch, crop_face
from raylib.detection.detector import Face, FaceDetector
from raylib.io.images import decode
from raylib.metrics.quality import Calibration, calibration_of, picture_evidence
from raylib.pipeline import FacePipeline, PhotographedFace, evidence, load_method
from raylib.synthesis import FaceSynthesizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from false_faces import cartoon, drawing_of, halves, statue_of

RENDERED = ("psnr", "strangeness")
_RIDGE = 0.2


@dataclass(frozen=True)
class Sample:
    """A picture with a face, or with what the detector takes for one."""

    source: str
    kind: str
    good: bool
    rgb: np.ndarray
    face: Face


def held_out(source: str) -> bool:
    return hashlib.sha256(source.encode()).digest()[0] % 5 < 2


def load(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), 10**8).rgb


# --- good faces, and what photographs suffer ---------------------------------------------------------------------


def jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))


def suffered(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(rgb)
    how = rng.integers(6)
    if how == 0:
        return np.asarray(
            image.rotate(float(rng.uniform(-180, 180)), Image.Resampling.BICUBIC, fillcolor=(90, 90, 90))
        )
    if how == 1:
        return np.asarray(image.convert("L").convert("RGB"))
    if how == 2:
        return jpeg(rgb, int(rng.integers(15, 50)))
    if how == 3:
        return np.clip(rgb + rng.normal(0, rng.uniform(6, 20), rgb.shape), 0, 255).astype(np.uint8)
    if how == 4:
        return np.clip(rgb * rng.uniform(0.35, 1.3) + rng.uniform(-10, 10), 0, 255).astype(np.uint8)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 2.5)))))


def shrunk(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A face of 40 to 90 pixels in a picture that may well be searched twice."""
    side = int(rng.uniform(110, 230))
    return np.asarray(Image.fromarray(rgb).resize((side, round(side * rgb.shape[0] / rgb.shape[1]))))


class Collector:
    """Makes the samples from the folders of data."""

    def __init__(self, data: Path, amount: float, seed: int):
        self._data, self._amount, self._seed = data, amount, seed
        self._hog = FaceDetector(FaceSettings(detector="hog"))
        self._any = FaceDetector(FaceSettings())
        self._lax = FaceDetector(FaceSettings(detector="hog", hog_min_score=-0.6, hog_upsample=1, any_roll=False))

    def _some(self, paths: list[Path], count: int) -> list[Path]:
        chosen = np.linspace(0, len(paths) - 2, min(max(2, int(count * self._amount)), len(paths) // 2)).astype(int)
        return [paths[i + self._seed % 2] for i in chosen]

    def __call__(self) -> Iterator[Sample]:
        """Yields the kinds of samples in turn, so that whoever stops early has some of each."""
        rng = np.random.default_rng(self._seed)
        photos: list[tuple[str, np.ndarray, Face]] = []
        for name, count in (("celebamask", 150), ("helen", 150)):
            for path in self._some(sorted((self._data / name / "images").glob("*.jpg")), count):
                rgb = load(path)
                photos += [(f"{name}/{path.stem}", rgb, face) for face in self._hog(rgb)[:1]]
        print(len(photos), "photographs", flush=True)
        kinds = [self._plain(photos), *self._more_good(photos, rng), *self._bad(photos, rng)]
        while kinds:
            for kind in list(kinds):
                sample = next(kind, None)
                if sample is None:
                    kinds.remove(kind)
                else:
                    yield sample

    def _plain(self, photos: list[tuple[str, np.ndarray, Face]]) -> Iterator[Sample]:
        for source, rgb, face in photos:
            yield Sample(source, source.partition("/")[0], True, rgb, face)

    def _more_good(
        self, photos: list[tuple[str, np.ndarray, Face]], rng: np.random.Generator
    ) -> list[Iterator[Sample]]:
        return [self._portraits(), self._fasseg(), self._synthetic(), self._suffered(photos, rng)]

    def _portraits(self) -> Iterator[Sample]:
        for path in sorted((self._data / "portraits").glob("*.jpg")):
            rgb = load(path)
            for face in self._hog(rgb)[self._seed :: 2]:
                if face.score > 0.5:
                    yield Sample(f"portraits/{path.stem}", "portraits", True, rgb, face)

    def _fasseg(self) -> Iterator[Sample]:
        folders = sorted(
            (self._data / "fasseg" / "V3" / "Train_RGB").iterdir(), key=lambda f: (int(f.name) % 7, f.name)
        )
        for n in range(self._seed, 14, 2):
            for folder in folders:
                yaw, paths = abs(int(folder.name)), sorted(folder.iterdir())
                if 30 < yaw < 60 or n >= len(paths):
                    continue
                rgb = load(paths[n])
                for face in self._any(rgb)[:1]:
                    kind = "fasseg" if yaw <= 30 else "turned"
                    yield Sample(f"fasseg/{paths[n].stem[:10]}", kind, yaw <= 30, rgb, face)

    def _synthetic(self) -> Iterator[Sample]:
        synthesizer = FaceSynthesizer(settings=SynthesisSettings(size_px=320, yaw_deg=30.0))
        for n in range(500 + 100 * self._seed, 500 + 100 * self._seed + max(2, int(40 * self._amount))):
            image = np.asarray(synthesizer([n]).image[0])
            for face in self._hog(image)[:1]:
                yield Sample(f"synthetic/{n}", "synthetic", True, image, face)

    def _suffered(self, photos: list[tuple[str, np.ndarray, Face]], rng: np.random.Generator) -> Iterator[Sample]:
        for i in rng.permutation(len(photos)):
            source, rgb, _ = photos[i]
            changed = suffered(rgb, rng) if rng.random() < 0.7 else shrunk(rgb, rng)
            for face in self._hog(changed)[:1]:
                yield Sample(source, "suffered", True, changed, face)

    def _bad(self, photos: list[tuple[str, np.ndarray, Face]], rng: np.random.Generator) -> list[Iterator[Sample]]:
        def lucky(face: Face, low: float = 0.2, high: float = 0.8) -> Face:
            """The face with a score that the detector might have given it, had it been kept."""
            return replace(face, score=max(face.score, float(rng.uniform(low, high))))

        count = max(4, int(110 * self._amount))
        chosen = [photos[i] for i in rng.permutation(len(photos))]

        def glued() -> Iterator[Sample]:
            split = {side: [p for p in photos if held_out(p[0]) == side] for side in (False, True)}
            for n in range(count):
                side = split[bool(n % 5 < 2)]
                (name, rgb, face), (_, other, other_face) = (side[i] for i in rng.choice(len(side), 2, replace=False))
                pair = [crop_face(p, f.landmarks, 256, 1.3).rgb for p, f in ((rgb, face), (other, other_face))]
                joined = halves(pair[0], pair[1], rng)
                for found in self._hog(joined)[:1]:
                    yield Sample(name, "halves", False, joined, found)

        def sideways() -> Iterator[Sample]:
            for source, rgb, face in chosen[:count]:
                angle = float(rng.choice([-1, 1]) * rng.uniform(55, 180))
                centre = (face.face_box[:2] + face.face_box[2:]) / 2
                turned = Image.fromarray(rgb).rotate(angle, Image.Resampling.BILINEAR, center=tuple(centre.tolist()))
                image = np.asarray(turned)
                yield Sample(source, "sideways", False, image, lucky(self._hog.face_in(image, face.face_box)))

        def shifted() -> Iterator[Sample]:
            for source, rgb, face in chosen[-count:]:
                side, angle = float(face.face_box[2] - face.face_box[0]), rng.uniform(0, 2 * np.pi)
                move = side * rng.uniform(0.45, 0.8) * np.array([np.cos(angle), np.sin(angle)])
                box = (face.face_box + np.concatenate([move, move])).astype(np.float32)
                yield Sample(source, "wrong box", False, rgb, lucky(self._hog.face_in(rgb, box)))

        def drawn() -> Iterator[Sample]:
            for source, rgb, _ in chosen[: 2 * count]:
                picture = drawing_of(rgb, rng)
                for found in self._hog(picture)[:1]:
                    yield Sample(source, "drawing", False, picture, found)

        def cartoons() -> Iterator[Sample]:
            for n in range(count):
                picture = cartoon(rng)
                for found in self._lax(picture)[:1]:
                    yield Sample(f"cartoon/{self._seed}-{n}", "cartoon", False, picture, lucky(found))

        def statues() -> Iterator[Sample]:
            for source, rgb, face in chosen[count // 2 : count]:
                stone = statue_of(rgb, face)
                for found in self._hog(stone)[:1]:
                    yield Sample(source, "statue", False, stone, found)

        return [glued(), sideways(), shifted(), drawn(), cartoons(), statues(), self._false(chosen[:count], lucky)]

    def _false(self, photos: list[tuple[str, np.ndarray, Face]], lucky: Callable[[Face], Face]) -> Iterator[Sample]:
        backgrounds = [(source, rgb, face.face_box) for source, rgb, face in photos]
        folder = Path(str(__import__("skimage").__path__[0])) / "data"
        for path in [*sorted(folder.glob("*.png")), *sorted(folder.glob("*.jpg")), self._data / "portraits/dogs.jpg"]:
            if path.stem not in ("astronaut", "camera"):
                rgb = np.asarray(Image.open(path).convert("RGB"))
                rgb = np.asarray(Image.fromarray(rgb).resize((400, round(400 * rgb.shape[0] / rgb.shape[1]))))
                backgrounds.append((f"none/{path.stem}", rgb, np.full(4, -1e6)))
        for source, rgb, true in backgrounds:
            taken = 0
            for face in sorted(self._lax(rgb), key=lambda f: -f.score):
                over = np.minimum(face.face_box[2:], true[2:]) - np.maximum(face.face_box[:2], true[:2])
                if (over > 0).all() and over.prod() > 0.1 * (face.face_box[2:] - face.face_box[:2]).prod():
                    continue
                if face.score < 0.5 and taken < 4:
                    taken += 1
                    yield Sample(source, "false detection", False, rgb, lucky(face))


# --- evidence ----------------------------------------------------------------------------------------------------


def measure(data: Path, samples: Path, amount: float, seed: int) -> None:
    """Writes features, kinds and thumbnails of all samples."""
    torch.set_num_threads(1)
    config = ReconstructConfig(input="none", output="none")
    pipeline = FacePipeline(load_method(config), config)
    names: list[str] = []
    rows, kinds, sources, good, crops, marks = [], [], [], [], [], []

    def store() -> None:
        with samples.open("wb") as file:
            np.savez(
                file,
                names=names,
                features=np.array(rows),
                kinds=kinds,
                sources=sources,
                good=good,
                crops=np.stack(crops),
                marks=np.stack(marks),
            )

    for sample in Collector(data, amount, seed)():
        crop = crop_face(sample.rgb, sample.face.landmarks, CROP_PX)
        found = FoundFace(sample.face, crop, Patch(sample.rgb, np.zeros(2), 1.0))
        height, width = sample.rgb.shape[:2]
        faces = [PhotographedFace(found, width, height)]
        (labels,) = pipeline.labels(faces)
        (fitted,) = pipeline.estimate(faces, [labels])
        if isinstance(fitted, Exception):
            print(sample.kind, sample.source, fitted)
            continue
        features = evidence(found, fitted).features()
        names = list(features)
        rows.append(list(features.values()))
        kinds.append(sample.kind)
        sources.append(sample.source)
        good.append(sample.good)
        crops.append(np.asarray(Image.fromarray(crop.rgb).resize((128, 128), Image.Resampling.BOX)))
        marks.append(crop.points_from_photo(sample.face.landmarks) / 2)
        if len(rows) % 50 == 0:
            print(len(rows), "samples", flush=True)
            store()
    store()


# --- regression --------------------------------------------------------------------------------------------------


def fitted_calibration(names: list[str], X: np.ndarray, good: np.ndarray, weight: np.ndarray) -> Calibration:
    """Returns the logistic regression with a ridge, by Newton's method; good and bad weigh alike.

    Evidence that would count for a face where it is unusual is left out.
    """
    usable = good & np.isfinite(X).all(axis=1)
    means, spreads = X[usable].mean(axis=0), X[usable].std(axis=0).clip(min=0.01)
    fixed = Calibration(tuple(names), means, spreads, np.zeros(len(names)), 0.0)
    Z = np.stack([fixed.unusual(dict(zip(names, row, strict=True))) for row in X])
    A = np.concatenate([Z, np.ones((len(Z), 1))], axis=1)
    w = np.zeros(A.shape[1])
    used = np.ones(len(w), dtype=bool)
    while True:
        ridge = np.diag(np.where(np.arange(used.sum()) < used.sum() - 1, _RIDGE, 1e-6))
        B, v = A[:, used], np.zeros(used.sum())
        for _ in range(50):
            p = 1 / (1 + np.exp(-B @ v))
            gradient = B.T @ (weight * (p - good)) + ridge @ v
            v -= np.linalg.solve((B * (weight * p * (1 - p))[:, None]).T @ B + ridge, gradient)
        w[:], w[used] = 0, v
        if w[:-1].max() <= 0:
            return Calibration(tuple(names), means, spreads, w[:-1], float(w[-1]))
        used[np.argmax(w[:-1])] = False


def auc(quality: np.ndarray, good: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(quality, kind="stable"), kind="stable") + 1
    n, m = good.sum(), (~good).sum()
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * m))


def judge(name: str, q: np.ndarray, good: np.ndarray, kinds: np.ndarray) -> None:
    print(f"\n## {name}: held out {good.sum()} good, {(~good).sum()} bad; ROC AUC {auc(q, good):.4f}")
    for threshold in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        lost, kept = (q[good] < threshold).mean(), (q[~good] >= threshold).mean()
        print(f"threshold {threshold:4}: {lost:6.2%} of good lost, {kept:6.2%} of bad kept")
    print("kind: n, mean quality, below 0.1, below 0.3")
    for kind in np.unique(kinds):
        of = kinds == kind
        shares = f"{(q[of] < 0.1).mean():.2f}, {(q[of] < 0.3).mean():.2f}"
        print(f"  {kind} ({'good' if good[of][0] else 'bad'}): {of.sum()}, {q[of].mean():.3f}, {shares}")
    print("reliability: said, share that is good, n")
    edges = np.array([0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0001])
    for low, high in pairwise(edges):
        of = (q >= low) & (q < high)
        if of.any():
            print(f"  {low:.2f} to {min(high, 1):.2f}: {q[of].mean():.3f}, {good[of].mean():.3f}, {of.sum()}")


# --- and all together --------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, nargs="+", help="one file a seed")
    parser.add_argument("--amount", type=float, default=1.0, help="share of the samples")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    for seed, path in enumerate(args.samples):
        if not path.exists():
            measure(args.data, path, args.amount, seed)
    parts = [np.load(path) for path in args.samples]
    names = parts[0]["names"].tolist()
    X, good, kinds, sources = (
        np.concatenate([part[n] for part in parts]) for n in ("features", "good", "kinds", "sources")
    )
    # What the crops say of themselves is measured anew, so that it can be worked on without the rest.
    pictures = [picture_evidence(c, m) for part in parts for c, m in zip(part["crops"], part["marks"], strict=True)]
    X[:, [names.index("plainness"), names.index("seam")]] = pictures
    out = np.array([held_out(s) for s in sources])
    said = {}
    for of, chosen in (("landmarks", [n for n in names if n not in RENDERED]), ("rendered", names)):
        columns = [names.index(n) for n in chosen]
        part = X[:, columns]
        train = ~out & (kinds != "statue")
        weight = np.where(good, 0.5 / good[train].mean(), 0.5 / (~good[train]).mean())
        calibration = fitted_calibration(chosen, part[train], good[train], weight[train])
        table = zip(chosen, calibration.means, calibration.spreads, calibration.weights, strict=True)
        said[of] = {n: [round(float(v), 4) for v in row] for n, *row in table}
        said[of]["bias"] = [round(calibration.bias, 4)]
        rounded = calibration_of(said[of])
        q = np.array([rounded(dict(zip(chosen, row, strict=True))) for row in part])
        judged = out & (kinds != "statue")
        judge(of, q[judged], good[judged], kinds[judged])
        print(f"  statue, not learned from: {(kinds == 'statue').sum()}, {q[kinds == 'statue'].mean():.3f}")
        print("weights", {n: v[-1] for n, v in said[of].items()})
    if args.write:
        path = Path(__file__).resolve().parents[2] / "raylib" / "weights" / "quality.json"
        path.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
