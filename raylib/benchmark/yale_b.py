"""Relights real faces: albedo once from photographs lit from the front, then every other light by its direction.

Yale B (Georghiades, Belhumeur and Kriegman, PAMI 2001) photographed people under a dome of flash lamps. The mesh is
the shipped face prior, fitted to the landmarks of one photograph; nothing of it is fitted to the shading. A pixel's
albedo is the least-squares ratio of photographs to shading over the lights of the front; a prediction is albedo times
the shading of the light's direction. Four shadings are compared:

    lambert                the cosine
    lambert_shadow         the cosine where the mesh lets the lamp through
    sh                     the lamp as nine spherical harmonics
    sh_shadow              the same on transfer coefficients with self-shadow
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from raylib.benchmark.record import outputs, write_record
from raylib.config import BenchmarkYaleBConfig, FaceSettings, FitSettings
from raylib.detection.detector import FaceDetector
from raylib.errors import ConfigError
from raylib.fitting.landmarks import fit_landmarks
from raylib.geometry.camera import focal_from_fov
from raylib.geometry.mesh import vertex_normals
from raylib.geometry.visibility import visible_directions
from raylib.lighting.spherical_harmonics import lambert_transfer, self_shadow_transfer, sh_basis
from raylib.morphable.model import load_prior
from raylib.render import rasterize_pixels
from raylib.runtime.progress import watched

_NAME = re.compile(r"A([+-]\d+)E([+-]\d+)")
_FOV_DEG = 10.0  # the camera stood far away
_FRONT_DEG = 25.0  # lights up to here give the albedo
_SIDE_DEG = 45.0  # lights beyond here are where shadows fall
_LAMP_DEG = 3.0  # radius of a lamp seen from the face
_LAMP_POINTS = 24
_SATURATED = 250
_MIN_VIEW_COSINE = 0.25
_BINS_DEG = (0, 25, 45, 60, 77, 181)
SHADINGS = ("lambert", "lambert_shadow", "sh", "sh_shadow")
"""What is compared."""


@dataclass(frozen=True)
class LitFace:
    """One person under many lights.

    Attributes:
        name: the folder's.
        photos: brightness, 0 to 255, without the ambient light where a photograph of it is there.
        saturated: where the camera could not tell how bright it was.
        directions: unit vectors to the lights in camera space.
        angles_deg: angles between the lights and the camera's axis.
    """

    name: str
    photos: Float[np.ndarray, "n h w"]
    saturated: NDArray[np.bool_]
    directions: Float[Tensor, "n 3"]
    angles_deg: Float[np.ndarray, " n"]

    def exposed(self, k: int) -> NDArray[np.uint8]:
        """Returns photograph k as bright as a camera would have made it, (h, w, 3)."""
        gain = 200 / max(float(np.percentile(self.photos[k], 95)), 1.0)
        gray = np.clip(self.photos[k] * gain, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)


def _gray(path: Path) -> Float[np.ndarray, "h w"]:
    return np.asarray(Image.open(path).convert("L"), dtype=np.float32)


def photographs_of_people(folder: Path) -> dict[Path, list[Path]]:
    """Returns the photographs of each person's folder.

    Raises:
        ConfigError: there are no photographs with a light's direction in their names.
    """
    found: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".pgm", ".png", ".jpg") and _NAME.search(path.stem):
            found.setdefault(path.parent, []).append(path)
    if not found:
        raise ConfigError(f"data is {str(folder)!r}, expected photographs named with a light, as in A+035E-20.pgm")
    return found


def plan(config: BenchmarkYaleBConfig) -> list[str]:
    """Returns what a run would do, in lines; a `ConfigError` where there are no photographs."""
    found = photographs_of_people(Path(config.data))
    count = sum(map(len, found.values()))
    return [f"would relight {count} photographs of {len(found)} people", *outputs(config.output, config.picture)]


def read_people(folder: Path) -> Iterator[LitFace]:
    """Yields the people of the folder, one a folder with photographs.

    Raises:
        ConfigError: there are no photographs with a light's direction in their names.
    """
    for parent, paths in photographs_of_people(folder).items():
        ambient = [p for p in parent.glob("*mbient*") if p.suffix.lower() in (".pgm", ".png", ".jpg")]
        raw = np.stack([np.asarray(Image.open(p).convert("L"), dtype=np.float32) for p in paths])
        background = np.zeros_like(raw[0])
        if (
            ambient
            and (base := np.asarray(Image.open(ambient[0]).convert("L"), dtype=np.float32)).shape == raw[0].shape
        ):
            background = base
        angles = torch.tensor([[float(a) for a in m.groups()] for p in paths if (m := _NAME.search(p.stem))])
        azimuth, elevation = torch.deg2rad(angles).unbind(1)
        # Camera space has x to the right and y down. A positive azimuth is a lamp on the subject's own right.
        side, up, front = -azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()
        directions = torch.stack([side, -up, -front], dim=1)
        degrees = torch.rad2deg(torch.acos(front.clamp(-1, 1))).numpy()
        yield LitFace(parent.name, np.clip(raw - background, 0, 255), raw >= _SATURATED, directions, degrees)


def _around(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n p 3"]:
    """Points of lamps about their directions: a spiral of equal areas."""
    i = torch.arange(_LAMP_POINTS) + 0.5
    radius = math.tan(math.radians(_LAMP_DEG)) * (i / _LAMP_POINTS).sqrt()
    angle = i * math.pi * (3 - math.sqrt(5))
    helper = torch.where(directions[:, 2:].abs() < 0.9, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    u = normalize(torch.linalg.cross(directions, helper), dim=1)
    w = torch.linalg.cross(directions, u)
    disc = (radius * angle.cos())[:, None] * u[:, None] + (radius * angle.sin())[:, None] * w[:, None]
    return normalize(directions[:, None] + disc, dim=2)


def _vertex_shading(
    verts: Float[Tensor, "v 3"], faces: Tensor, directions: Float[Tensor, "n 3"]
) -> dict[str, Float[np.ndarray, "n v"]]:
    """Shading of each vertex under each light, in each of the ways compared."""
    normals = vertex_normals(verts[None], faces)
    cosine = torch.relu(directions @ normals[0].T)
    lamps = _around(directions)
    seen = visible_directions(verts[None], normals, faces, lamps.flatten(0, 1))[0].float()
    open_share = seen.view(len(verts), *lamps.shape[:2]).mean(2).T
    light = math.pi * sh_basis(directions)
    return {
        "lambert": cosine.numpy(),
        "lambert_shadow": (cosine * open_share).numpy(),
        "sh": torch.relu(light @ lambert_transfer(normals)[0].T).numpy(),
        "sh_shadow": torch.relu(light @ self_shadow_transfer(verts[None], normals, faces)[0].T).numpy(),
    }


@dataclass(frozen=True)
class Relit:
    """Predictions for one person.

    Attributes:
        face: the photographs.
        mask: pixels of the face that are compared.
        predicted: brightness in each way, zero outside the mask.
    """

    face: LitFace
    mask: NDArray[np.bool_]
    predicted: dict[str, Float[np.ndarray, "n h w"]]


def relight(face: LitFace, detector: FaceDetector) -> Relit:
    """Returns predictions of all photographs from the albedo of those lit from the front.

    Raises:
        ConfigError: no face is found in the photograph lit most from the front.
    """
    height, width = face.photos.shape[1:]
    frontal = int(face.angles_deg.argmin())
    found = detector(face.exposed(frontal))
    if not found:
        raise ConfigError(f"data has no face in the photograph of {face.name} lit from the front")
    prior = load_prior()
    landmarks = torch.from_numpy(found[0].landmarks).float()[None]
    focal = focal_from_fov(_FOV_DEG, torch.tensor([float(max(height, width))]))
    fit = fit_landmarks(prior, landmarks, focal, torch.tensor([[width / 2, height / 2]]), FitSettings())
    verts = fit.verts_mm[0]
    camera = fit.camera
    in_camera = camera.to_camera(fit.verts_mm)
    pixels = torch.cat([camera.project(fit.verts_mm), in_camera[..., 2:]], dim=2).numpy()
    fragments = rasterize_pixels(pixels, prior.faces.numpy(), (height, width))
    hit = fragments.pix_to_face[0] >= 0
    corners = prior.faces.numpy()[fragments.pix_to_face[0][hit]]
    bary = fragments.bary_coords[0][hit]
    normals = vertex_normals(in_camera, prior.faces)[0]
    facing = -(normals * normalize(in_camera[0], dim=1)).sum(1).numpy()
    mask = np.zeros((height, width), bool)
    mask[hit] = (facing[corners] * bary).sum(1) > _MIN_VIEW_COSINE
    shadings = _vertex_shading(verts, prior.faces, face.directions @ camera.R[0])
    front = face.angles_deg <= _FRONT_DEG
    predicted = {}
    for name, at_verts in shadings.items():
        shading = np.zeros_like(face.photos)
        shading[:, hit] = (at_verts[:, corners] * bary).sum(2)
        weight = front[:, None, None] & ~face.saturated
        albedo = (face.photos * shading * weight).sum(0) / np.maximum((shading**2 * weight).sum(0), 1e-6)
        predicted[name] = np.clip(albedo * shading, 0, 255) * mask
    return Relit(face, mask, predicted)


def _scores(photo: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Correlation and peak signal-to-noise ratio (dB, peak 255) of the compared pixels."""
    error = float(np.mean((photo - predicted) ** 2))
    spread = float(photo.std() * predicted.std())
    correlation = float(np.mean((photo - photo.mean()) * (predicted - predicted.mean())) / max(spread, 1e-9))
    return correlation, 10 * math.log10(255**2 / max(error, 1e-9))


def _table(relit: list[Relit]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores of the lights that gave no albedo, by the light's angle and the way of shading."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    bins = [*itertools.pairwise(_BINS_DEG), (_SIDE_DEG, 181)]
    for low, high in bins:
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in SHADINGS}
        for person in relit:
            for i in np.nonzero((person.face.angles_deg > low) & (person.face.angles_deg <= high))[0]:
                pixels = person.mask & ~person.face.saturated[i]
                for name in SHADINGS:
                    scores[name].append(_scores(person.face.photos[i][pixels], person.predicted[name][i][pixels]))
        if scores[SHADINGS[0]]:
            label = f"{low:.0f} to {high:.0f}" if high <= 180 else f"beyond {low:.0f}"
            rows[label] = {
                name: {
                    "photos": len(values),
                    "correlation": float(np.mean([c for c, _ in values])),
                    "psnr_db": float(np.mean([p for _, p in values])),
                }
                for name, values in scores.items()
            }
    return rows


def _draw(relit: list[Relit], path: Path) -> None:
    """Writes photographs under four lights above their predictions without and with shadow."""
    columns = []
    for person in relit:
        for target in (40, 55, 70, 85):
            i = int(np.abs(person.face.angles_deg - target).argmin())
            panels = [person.face.photos[i] * person.mask, *(person.predicted[n][i] for n in SHADINGS)]
            gain = 220 / max(float(np.percentile(panels[0][person.mask], 98)), 1.0)
            columns.append(np.concatenate([np.clip(p * gain, 0, 255) for p in panels]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(columns, axis=1).astype(np.uint8)).save(path)


def run(config: BenchmarkYaleBConfig) -> int:
    """Prints correlation and PSNR by the light's angle, and writes them as JSON."""
    detector = FaceDetector(FaceSettings())
    people = len(photographs_of_people(Path(config.data)))
    shown = watched(read_people(Path(config.data)), "people relit", people)
    relit = [relight(person, detector) for person in shown]
    figures = _table(relit)
    print("light, degrees      " + "".join(f"{name:>18}" for name in SHADINGS) + "   correlation, PSNR dB")
    for label, by_name in figures.items():
        cells = [f"{v['correlation']:9.3f} {v['psnr_db']:8.2f}" for v in by_name.values()]
        print(f"{label:14} {by_name['sh']['photos']:4} " + "".join(cells))
    write_record(config.output, config, {"people": [r.face.name for r in relit], "by_angle": figures})
    if config.picture:
        _draw(relit, Path(config.picture))
    return 0
