"""What faces reconstructed from one photograph are worth as physics: fidelity, albedo under many lights, relighting.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_physics.py photographs DIR [--count 100] [--sheet worst.png]
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_physics.py lights [--people 16]
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_physics.py yale DIR
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_physics.py normals DIR

All take `--method meshnet` (or `landmarks`) and `--refine 0 30`. One process, in batches as the job has them;
processor time of one core.

photographs: PSNR and SSIM of the rendering (albedo at the vertices times shading, no texture) over the 128 px crop,
inside the bare face; distance of the landmarks from dlib's, of all 68 and of the 51 without the jaw, as shares of the
distance of the outer eye corners; triangles turned over; how much identity scatters among the faces and how far their
average lies from the mean face, to be compared with a folder of `evaluate.py pictures`. The sheet shows the ten
photographs with the least PSNR, or all (`--all`), with side views.

lights: synthetic people of the split `test`, each lit in 8 ways. How much the albedo of a vertex varies among the
pictures, as a share of how much the picture's colours at that vertex do: variance of values that are scaled to the
same mean in each picture, over the vertices that are seen bare. And PSNR under four lights never seen.

yale: the same variance on Yale B, by the angles of the lights; landmarks are those of the photograph lit from the
front, since the camera stands still.

normals: real shapes. On Yale B photometric stereo (Woodham 1980, robust against shadow and shine) tells every pixel's
normal from all photographs of a person; each photograph lit within 45 degrees is reconstructed alone, with its own
landmarks, and its mesh's normals are compared after the rotation that brings both together best, as those of the mean
face in the same pose are. "Towards the mean" is the mesh halfway between: where that is much better, shapes are
exaggerated.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raylib.benchmark.yale_b import LitFace, read_people
from raylib.config import FaceSettings, ReconstructConfig, SynthesisSettings
from raylib.detection.alignment import crop_face
from raylib.detection.detector import FaceDetector, steady
from raylib.evaluation.appearance.errors import AppearanceJudge
from raylib.evaluation.faces import Prediction, TrueAppearance, TruePhoto
from raylib.evaluation.truth import prior_truth
from raylib.fitting.estimates import FaceBatch, FaceEstimates
from raylib.fitting.landmarks import OUTER_EYE
from raylib.geometry.camera import Camera, focal_from_fov, rotation_from_euler_deg
from raylib.geometry.mesh import face_areas_normals, vertex_normals
from raylib.lighting.color import srgb_to_linear
from raylib.metrics.pictures import masked_ssim
from raylib.pipeline import Estimator, load_method
from raylib.refinement.refiner import Refiner
from raylib.render import rasterize_pixels
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.synthesis import FaceSynthesizer, seeds_of
from raylib.texture.preview import clay_view

_BATCH = 16
_FOV_DEG = 30.0  # what the job assumes
_YALE_FOV_DEG = 10.0
_YALE_BINS_DEG = (0, 30, 50, 78)
_STEREO_INPUT_DEG = 45  # photographs lit up to here are reconstructed
_TILE_PX = 160


class Reconstructor:
    """A method with refinement, as the job runs it."""

    def __init__(self, name: str):
        config = ReconstructConfig(input="-", output="-", method=name)
        self.method: Estimator = load_method(config)
        self.model = self.method.model
        self.refiner = Refiner(self.model, config.fit)
        self._segmenter = FaceSegmenter(device="cpu")
        self.method_s = self.refine_s = 0.0

    def batch(self, pictures: list[np.ndarray], landmarks: list[np.ndarray], fov_deg: float = _FOV_DEG) -> FaceBatch:
        """Returns the faces with these landmarks, segmented."""
        crops = [crop_face(rgb, points) for rgb, points in zip(pictures, landmarks, strict=True)]
        size = torch.tensor([[rgb.shape[1], rgb.shape[0]] for rgb in pictures], dtype=torch.float32)
        focal = focal_from_fov(fov_deg, size.amax(1))
        images = np.stack([crop.rgb for crop in crops])
        return FaceBatch(
            torch.from_numpy(np.stack(landmarks)).float(), focal, size / 2, images,
            np.stack([crop.to_photo for crop in crops]), self._segmenter.segment(images),
        )  # fmt: skip

    def __call__(self, faces: FaceBatch, steps: list[int]) -> dict[int, FaceEstimates]:
        """Returns the estimates after so many steps; 0 adds first guesses where there is no light."""
        start = time.process_time()
        estimates = self.method(faces)
        self.method_s += time.process_time() - start
        out = {}
        for n in steps:
            start = time.process_time()
            out[n] = self.refiner(faces, estimates, n).estimates
            if n:
                self.refine_s += time.process_time() - start
        return out


def _turned(verts: torch.Tensor, mean: torch.Tensor, faces: torch.Tensor) -> np.ndarray:
    """Returns how many triangles of each face look away from those of the mean face by more than 90 degrees."""
    of = face_areas_normals(verts, faces)[1], face_areas_normals(mean[None], faces)[1]
    return ((of[0] * of[1]).sum(2) < 0).sum(1).numpy()


def photographs(args: argparse.Namespace) -> None:
    detector = FaceDetector(FaceSettings())
    reconstruct = Reconstructor(args.method)
    files = sorted(p for p in Path(args.folder).rglob("*") if p.suffix.lower() in (".jpg", ".png"))[: args.count]
    found = []
    for path in files:
        rgb = np.asarray(Image.open(path).convert("RGB"))
        faces = detector(rgb)
        if faces:
            face = max(faces, key=lambda f: float(f.face_box[2] - f.face_box[0]))
            if steady(face):
                found.append((path, rgb, face.landmarks))
    rows: dict[int, list[dict[str, float]]] = {n: [] for n in args.refine}
    tiles = []
    identities: dict[int, list[torch.Tensor]] = {n: [] for n in args.refine}
    for first in range(0, len(found), _BATCH):
        some = found[first : first + _BATCH]
        batch = reconstruct.batch([rgb for _, rgb, _ in some], [points for _, _, points in some])
        estimates = reconstruct(batch, args.refine)
        for n, estimate in estimates.items():
            identities[n].append(estimate.identity)
            picture, target, weight = (x.numpy() for x in reconstruct.refiner.pictures(batch, estimate))
            distance = (estimate.landmarks_px - batch.landmarks_px).norm(dim=2)
            apart = (batch.landmarks_px[:, OUTER_EYE[0]] - batch.landmarks_px[:, OUTER_EYE[1]]).norm(dim=1)
            turned = _turned(estimate.verts_mm, reconstruct.model.mean, reconstruct.model.faces)
            for i in range(len(some)):
                error = float((((picture[i] - target[i]) ** 2).mean(-1) * weight[i]).sum() / max(weight[i].sum(), 1))
                rows[n].append({
                    "psnr": -10 * np.log10(max(error, 1e-10)),
                    "ssim": masked_ssim(picture[i], target[i], weight[i] > 0.5),
                    "nme": float(distance[i].nanmean() / apart[i]),
                    "nme_inner": float(distance[i, 17:].nanmean() / apart[i]),
                    "turned": float(turned[i]),
                })  # fmt: skip
            if n == args.refine[-1]:
                shown = np.where(weight[..., None] > 0.5, picture, target)
                for i, (path, _, _) in enumerate(some):
                    tiles.append(
                        (rows[n][-len(some) + i]["psnr"], path.stem, target[i], shown[i], estimate.verts_mm[i])
                    )
    count = len(found)
    print(f"{len(files)} photographs, {count} faces")
    for n, values in rows.items():
        of = {k: np.array([v[k] for v in values]) for k in values[0]}
        psnr, ssim, nme, turned = (of[k] for k in ("psnr", "ssim", "nme", "turned"))
        print(f"{args.method}, {n} steps")
        print(f"  PSNR {psnr.mean():.2f} dB, least {psnr.min():.1f}, {np.mean(psnr >= 26):.0%} reach 26")
        print(f"  SSIM {ssim.mean():.3f}, least {ssim.min():.3f}, {np.mean(ssim >= 0.9):.0%} reach 0.90")
        print(f"  landmarks {nme.mean():.2%}, most {nme.max():.1%}, {np.mean(nme > 0.04):.0%} over 4 %", end="; ")
        print(f"without the jaw {of['nme_inner'].mean():.2%}")
        print(f"  triangles turned {turned.mean():.2f} a face, most {turned.max():.0f}")
        identity = torch.cat(identities[n])
        shape = torch.einsum("k,kvc->vc", identity.mean(0), reconstruct.model.identity).square().sum(1).mean().sqrt()
        print(f"  identity's variance {identity.var(0).sum():.1f}, its average {shape:.2f} mm from the mean face")
    rate = count / reconstruct.method_s
    print(f"method {1e3 / rate:.1f} ms a face ({rate:.0f} a second)", end=", ")
    print(f"refinement {reconstruct.refine_s / count:.2f} s a face")
    if args.sheet:
        tiles.sort(key=lambda t: t[0])
        _sheet(tiles[: None if args.all else 10], reconstruct, Path(args.sheet))


def _view(verts: torch.Tensor, faces: torch.Tensor, yaw_deg: float) -> np.ndarray:
    """Returns the bare shape seen from the side."""
    turn = rotation_from_euler_deg(torch.tensor([[yaw_deg + 25.0, 0.0, 0.0]]))[0]
    flat = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # face space from camera space
    turned = verts @ (flat @ turn).T
    return clay_view(turned.numpy(), vertex_normals(turned[None], faces)[0].numpy(), faces.numpy())


def _sheet(tiles: list, reconstruct: Reconstructor, out: Path) -> None:
    """Writes each face in a row: photograph, rendering over it, bare shape from three sides; two faces a row."""
    drawn = []
    for _, _, target, shown, verts in tiles:
        panels = [(p * 255).astype(np.uint8) for p in (target, shown)]
        panels += [_view(verts, reconstruct.model.faces, yaw) for yaw in (0.0, -65.0, 65.0)]
        drawn.append(np.concatenate([np.asarray(Image.fromarray(p).resize((_TILE_PX,) * 2)) for p in panels], axis=1))
    if len(drawn) % 2:
        drawn.append(np.full_like(drawn[0], 255))
    rows = [np.concatenate(drawn[i : i + 2], axis=1) for i in range(0, len(drawn), 2)]
    Image.fromarray(np.concatenate(rows)).save(out)


def _spread(values: np.ndarray) -> float:
    """Returns the variance among pictures of values (pictures, vertices, channels) scaled to mean 1 in each."""
    scaled = values / values.mean(axis=(1, 2), keepdims=True)
    return float(scaled.var(axis=0).mean())


def _at(pixels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns the picture's values at (v, 2) pixels, of the nearest one."""
    rows, columns = (np.clip(pixels[:, k].astype(int), 0, image.shape[1 - k] - 1) for k in (1, 0))
    return image[rows, columns]


def lights(args: argparse.Namespace) -> None:
    detector = FaceDetector(FaceSettings())
    reconstruct = Reconstructor(args.method)
    prior = reconstruct.model
    skin = np.flatnonzero(prior.regions.numpy() == 0)
    settings = SynthesisSettings(size_px=256, yaw_deg=30, shots=8, shots_differ_in="light")
    make, judge = FaceSynthesizer("prior", settings), AppearanceJudge()
    shares: dict[int, list[float]] = {n: [] for n in args.refine}
    unseen: dict[int, list[float]] = {n: [] for n in args.refine}
    pictures = 0
    for person in range(args.people):
        faces = make(seeds_of("test", 8, 8 * (args.first + person)))
        found = [detector(image) for image in faces.image]
        lit = [i for i, f in enumerate(found) if f and steady(f[0])]
        if len(lit) < 4:
            continue
        pictures += len(lit)
        batch = reconstruct.batch([faces.image[i] for i in lit], [found[i][0].landmarks for i in lit])
        pixels = faces.camera.project(torch.from_numpy(faces.verts_mm)).numpy()[0]
        depth = faces.camera.to_camera(torch.from_numpy(faces.verts_mm))[0, :, 2].numpy()
        shown = _at(pixels, faces.face_pixels[0]) & (np.abs(_at(pixels, faces.depth[0]) - depth) < 3)
        shown &= np.isin(np.arange(len(shown)), skin)
        raw = np.stack(
            [srgb_to_linear(torch.from_numpy(_at(pixels, faces.image[i])[shown] / 255.0)).numpy() for i in lit]
        )
        for n, estimate in reconstruct(batch, args.refine).items():
            shares[n].append(_spread(estimate.albedo.numpy()[:, shown]) / _spread(raw))
            for k, i in enumerate(lit[:2]):
                unseen[n].append(_unseen(judge, faces, i, estimate.select(slice(k, k + 1)), prior))
    print(f"{len(shares[args.refine[0]])} people, {pictures} pictures in which the face is found")
    for n in args.refine:
        share = np.array(shares[n])
        print(f"{args.method}, {n} steps: variance of albedo {share.mean():.0%} of the colours', median", end=" ")
        print(f"{np.median(share):.0%}, {np.mean(share <= 0.35):.0%} of people at most 35 %;", end=" ")
        print(f"unseen lights {np.mean(unseen[n]):.1f} dB")


def _unseen(judge: AppearanceJudge, faces, i: int, estimate: FaceEstimates, prior) -> float:
    camera = faces.camera.select(slice(i, i + 1))
    true = TrueAppearance(
        faces.albedo[i], faces.light_sh[i], faces.lamp_direction[i], faces.lamp_color[i], faces.labels[i], str(i)
    )
    photo = TruePhoto(faces.image[i], camera, faces.landmarks[i], faces.landmark_visible[i])
    face = prior_truth(str(faces.seeds[i]), faces.verts_mm[i].astype(np.float64), 100, photo, (), true)
    verts = estimate.verts_mm[0].double().numpy()
    mine = Prediction(
        verts, prior.faces.numpy(), verts[prior.landmark_verts.numpy()], True, estimate.camera,
        estimate.albedo[0].double().numpy(), None, estimate.light_sh[0].double().numpy(),
    )  # fmt: skip
    return judge(mine, face).figures["unseen_psnr"]


def yale(args: argparse.Namespace) -> None:
    detector = FaceDetector(FaceSettings())
    reconstruct = Reconstructor(args.method)
    skin = reconstruct.model.regions.numpy() == 0
    for person in read_people(Path(args.folder)):
        frontal = int(person.angles_deg.argmin())
        points = detector(person.exposed(frontal))[0].landmarks
        for low, high in itertools.pairwise(_YALE_BINS_DEG):
            chosen = np.flatnonzero((person.angles_deg >= low) & (person.angles_deg < high))
            estimates: dict[int, list[FaceEstimates]] = {n: [] for n in args.refine}
            for first in range(0, len(chosen), _BATCH):
                some = chosen[first : first + _BATCH]
                batch = reconstruct.batch([person.exposed(k) for k in some], [points] * len(some), _YALE_FOV_DEG)
                for n, estimate in reconstruct(batch, args.refine).items():
                    estimates[n].append(estimate)
            for n, parts in estimates.items():
                camera = parts[0].camera.select(slice(0, 1))
                pixels = camera.project(parts[0].verts_mm[:1])[0].numpy()
                # The photographs are linear already; the crops were taken for sRGB, as the job takes every picture.
                raw = np.stack([_at(pixels, person.exposed(k) / 255.0)[skin] for k in chosen])
                raw = srgb_to_linear(torch.from_numpy(raw)).numpy()
                albedo = np.concatenate([p.albedo.numpy()[:, skin] for p in parts])
                apart = [np.corrcoef(np.log(v.mean(2) + 0.01)) for v in (albedo, raw)]
                pairs = np.triu_indices(len(chosen), 1)
                which = f"{person.name}, {len(chosen)} lights at {low} to {high} degrees, {n} steps"
                share, (mine, theirs) = _spread(albedo) / _spread(raw), (a[pairs].mean() for a in apart)
                print(f"{which}: variance {share:.0%}, correlation {mine:.2f} against {theirs:.2f}", flush=True)


def _stereo(person: LitFace) -> tuple[np.ndarray, np.ndarray]:
    """Returns normals in camera space (h, w, 3) and how far off they are to be trusted: relative residual, (h, w)."""
    photos, lamps = person.photos.reshape(len(person.photos), -1) / 255.0, person.directions.numpy()
    usable = (~person.saturated & (person.angles_deg < _YALE_BINS_DEG[-1])[:, None, None]).reshape(photos.shape)
    bright = photos > 0.15 * np.quantile(np.where(usable, photos, 0), 0.9, axis=0)
    weight = (usable & bright).astype(float)
    for _ in range(8):
        A = np.einsum("np,ni,nj->pij", weight, lamps, lamps) + 1e-6 * np.eye(3)
        b = np.einsum("np,ni,np->pi", weight, lamps, photos)
        scaled = np.linalg.solve(A, b[..., None])[..., 0]
        expected = lamps @ scaled.T
        left = photos - np.maximum(expected, 0)
        scale = 1.4826 * np.median(np.abs(left), axis=0) + 0.01
        weight = usable * bright * (expected > 0) / (1 + (left / (1.5 * scale)) ** 2)  # Cauchy's
    albedo = np.linalg.norm(scaled, axis=1).clip(1e-6)
    residual = np.sqrt((weight * left**2).sum(0) / weight.sum(0).clip(1e-6)) / albedo.clip(1e-3)
    residual[albedo < 0.4 * np.median(albedo)] = np.inf
    shape = person.photos.shape[1:]
    return (scaled / albedo[:, None]).reshape(*shape, 3), residual.reshape(shape)


def _normal_error(
    verts: torch.Tensor, camera: Camera, faces: torch.Tensor, true: np.ndarray, off: np.ndarray
) -> float:
    """Returns the median angle to the true normals, degrees, after the best rotation."""
    seen = camera.to_camera(verts[None])
    pixels = torch.cat([camera.project(verts[None]), seen[..., 2:]], dim=2).numpy()
    fragments = rasterize_pixels(pixels, faces.numpy(), off.shape)
    hit = fragments.pix_to_face[0] >= 0
    corners = vertex_normals(seen, faces)[0].numpy()[faces.numpy()[fragments.pix_to_face[0][hit]]]
    mine = (corners * fragments.bary_coords[0][hit][..., None]).sum(1)
    mine /= np.linalg.norm(mine, axis=1, keepdims=True)
    wanted = true[hit]
    sure = (off[hit] < 0.12) & (wanted[:, 2] < -0.3) & (mine[:, 2] < -0.25)
    u, _, v = np.linalg.svd(mine[sure].T @ wanted[sure])
    turned = mine[sure] @ (u * [1, 1, np.sign(np.linalg.det(u @ v))]) @ v
    return float(np.median(np.degrees(np.arccos(np.clip((turned * wanted[sure]).sum(1), -1, 1)))))


def normals(args: argparse.Namespace) -> None:
    detector = FaceDetector(FaceSettings())
    reconstruct = Reconstructor(args.method)
    model = reconstruct.model
    ratios: dict[str, list[float]] = {}
    for person in read_people(Path(args.folder)):
        true, off = _stereo(person)
        pictures = [person.exposed(k) for k in np.flatnonzero(person.angles_deg < _STEREO_INPUT_DEG)]
        found = [(rgb, faces[0].landmarks) for rgb in pictures if (faces := detector(rgb))]
        batch = reconstruct.batch([rgb for rgb, _ in found], [points for _, points in found], _YALE_FOV_DEG)
        print(f"{person.name}: {len(pictures)} photographs, face found in {len(found)}")
        for n, estimate in reconstruct(batch, args.refine).items():
            errors: dict[str, list[float]] = {"mean face": [], "mesh": [], "towards the mean": []}
            for i in range(len(found)):
                camera, verts = estimate.camera.select(slice(i, i + 1)), estimate.verts_mm[i]
                shapes = model.mean, verts, (model.mean + verts) / 2
                for name, shape in zip(errors, shapes, strict=True):
                    errors[name].append(_normal_error(shape, camera, model.faces, true, off))
            average = {name: float(np.mean(values)) for name, values in errors.items()}
            for name in ("mesh", "towards the mean"):
                ratio = average[name] / average["mean face"]
                ratios.setdefault(f"{args.method}, {n} steps, {name}", []).append(ratio)
                print(f"  {n} steps, {name}: {average[name]:.2f} degrees, {ratio:.2f} of the mean face's", flush=True)
    for name, values in ratios.items():
        print(f"{name}: {np.mean(values):.3f} of the mean face's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["photographs", "lights", "yale", "normals"])
    parser.add_argument("folder", nargs="?", help="photographs, or Yale B")
    parser.add_argument("--method", default="meshnet", choices=["meshnet", "landmarks"])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 30])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="number of the first synthetic person")
    parser.add_argument("--sheet", help="picture of the worst ten")
    parser.add_argument("--all", action="store_true", help="all faces on the sheet")
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"photographs": photographs, "lights": lights, "yale": yale, "normals": normals}[args.what](args)


if __name__ == "__main__":
    main()
