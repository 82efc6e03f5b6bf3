"""How well one reconstruction explains its picture: reprojection, albedo, light, and a light that it never saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from raylib.evaluation.appearance.skin_tone import tone_class, typology_angle_deg
from raylib.evaluation.drawing import Drawing, draw, shading, to_linear, to_srgb, transfer_of
from raylib.evaluation.faces import Prediction, TrueAppearance, TrueFace, TruePhoto
from raylib.geometry.camera import Camera
from raylib.geometry.closest import MeshSurface
from raylib.geometry.landmarks68 import NOSE_TIP
from raylib.geometry.mesh import face_areas_normals
from raylib.lighting.color import LUMINANCE
from raylib.lighting.spherical_harmonics import lambert_transfer, sh_basis, sphere_directions
from raylib.metrics.lpips import masked_lpips
from raylib.metrics.pictures import (
    masked_psnr,
    masked_ssim,
    relative_error,
    scale_between,
    square_around,
)
from raylib.metrics.scan_error import FACE_RADIUS_MM, surface_error
from raylib.morphable.model import REGIONS, load_prior
from raylib.segmentation.labels import FACE_LABELS

Array = NDArray[Any]

ERRORS = ("albedo", "albedo_by_channel", "tone_deg", "sphere", "light_deg")
"""Figures where less is better: shares but for the angles."""
LIKENESS = ("psnr", "ssim", "lpips", "coverage", "unseen_psnr")
"""Figures of pictures; of these `lpips` is a distance."""
FIGURES = (*LIKENESS, *ERRORS)

IDENTICAL_DB = 99.0
"""Stands for the infinite ratio of identical pictures, so that means stay finite."""

LPIPS_PX = 128
"""Side of what LPIPS sees: the square around the face, so that its scale does not depend on the photograph's."""

_SPHERE_DIRECTIONS = 2000

UNSEEN_LIGHTS = (
    # Direction in the picture (x to its right, y up, z to the camera), colour of the lamp, light from everywhere.
    ((-0.8, 0.3, 0.5), (1.0, 1.0, 1.0), 0.10),
    ((0.8, 0.3, 0.5), (1.0, 0.8, 0.6), 0.10),
    ((0.1, 0.9, 0.4), (0.8, 0.9, 1.0), 0.15),
    ((0.0, 0.0, 1.0), (1.0, 1.0, 1.0), 0.05),
)
"""Lights under which true and reconstructed faces are compared: from the left, the right, above and the camera."""


@dataclass(frozen=True)
class AppearanceErrors:
    """The figures of one reconstructed face.

    Attributes:
        figures: see `FIGURES`; NaN where one is not defined.
        tone: class of the true skin.
        person: who it is.
        albedo: reconstructed albedo at the prior's vertices, or None.
        pictures: what was compared, for the contact sheet.
    """

    figures: dict[str, float]
    tone: str
    person: str
    albedo: Float[np.ndarray, "2113 3"] | None
    pictures: dict[str, Drawing] = field(repr=False, default_factory=dict)


@lru_cache(maxsize=1)
def skin_weights() -> Float[np.ndarray, " v"]:
    """Returns how much each vertex of the prior counts: its share of the area of the face's skin, 0 elsewhere.

    Eyes and the inside of the mouth are left out, and what is farther than 95 mm from the nose tip.
    """
    prior = load_prior()
    assert prior.regions is not None
    verts = prior.mean.double()
    area = face_areas_normals(verts[None], prior.faces)[0][0].numpy() / 3
    weights = np.bincount(prior.faces.numpy().ravel(), np.repeat(area, 3), len(verts))
    hidden = np.isin(prior.regions.numpy(), [REGIONS.index("eye"), REGIONS.index("inner_mouth")])
    tip = verts[prior.landmark_verts[NOSE_TIP]]
    weights[hidden | ((verts - tip).norm(dim=1) > FACE_RADIUS_MM).numpy()] = 0.0
    return weights / weights.sum()


@lru_cache(maxsize=1)
def _bare_skin() -> Bool[np.ndarray, " v"]:
    prior = load_prior()
    assert prior.regions is not None
    return (prior.regions.numpy() == REGIONS.index("skin")) & (skin_weights() > 0)


def true_tone_deg(appearance: TrueAppearance) -> float:
    """Returns the individual typology angle of a face's skin without brows and lips."""
    return typology_angle_deg(appearance.albedo[_bare_skin()])


def albedo_error(mine: Float[np.ndarray, "v 3"], true: Float[np.ndarray, "v 3"], by_channel: bool = False) -> float:
    """Returns how far albedo is from the truth up to one factor, or one a channel, as a share of the truth's size."""
    w = skin_weights()
    if not by_channel:
        return relative_error(mine, true, w)
    scaled = np.stack([scale_between(mine[:, c, None], true[:, c, None], w) * mine[:, c] for c in range(3)], axis=1)
    off = (w[:, None] * (scaled - true) ** 2).sum()
    return float(np.sqrt(off / (w[:, None] * true**2).sum()))


def inconstancy(albedos: list[Float[np.ndarray, "v 3"]]) -> float:
    """Returns how much the albedo of one face differs between pictures under different lights.

    Each is scaled to the same size; then the root mean square deviation from their mean is a share of that size.
    """
    w = skin_weights()[:, None]
    scaled = [a / max(float(np.sqrt((w * a * a).sum())), 1e-30) for a in albedos]
    mean = np.mean(scaled, axis=0)
    deviation = np.mean([(w * (a - mean) ** 2).sum() for a in scaled])
    return float(np.sqrt(deviation / (w * mean * mean).sum()))


def total_sh(appearance: TrueAppearance) -> Float[np.ndarray, "9 3"]:
    """Returns the true light with its lamp as spherical harmonics.

    A lamp that a facing white surface reflects as c is the radiance pi c from one direction.
    """
    lamp = sh_basis(torch.from_numpy(appearance.lamp_direction).double()[None])[0].numpy()
    return appearance.light_sh + np.pi * lamp[:, None] * appearance.lamp_color


def sphere_shading(appearance: TrueAppearance, normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Returns what a white matte sphere reflects in the true light, at unit normals in canonical face space."""
    smooth = lambert_transfer(torch.from_numpy(normals)).numpy() @ appearance.light_sh
    return smooth + np.maximum(normals @ appearance.lamp_direction, 0)[:, None] * appearance.lamp_color


def main_direction(light_sh: Float[np.ndarray, "9 3"]) -> Float[np.ndarray, " 3"]:
    """Returns the direction from which most light comes: that of the first band's luminance; zero without one."""
    y, z, x = light_sh[1:4] @ LUMINANCE
    vector = np.array([x, y, z])
    size = np.linalg.norm(vector)
    return vector / size if size > 1e-9 * max(abs(float(light_sh[0] @ LUMINANCE)), 1e-30) else np.zeros(3)


def light_errors(
    light_sh: Float[np.ndarray, "9 3"], camera: Camera, appearance: TrueAppearance, true_camera: Camera
) -> dict[str, float]:
    """Returns how differently a white sphere before the camera is lit, and the angle between the main directions.

    Both lights are compared in the space of the camera; the sphere's error is up to one factor, as a share of the
    true sphere's brightness, over the half that the camera sees.
    """
    to_mine, to_true = (c.R[0].double().numpy() for c in (camera, true_camera))
    directions = sphere_directions(_SPHERE_DIRECTIONS).double().numpy()
    seen = directions[directions[:, 2] < 0]  # camera space looks along +z
    mine = lambert_transfer(torch.from_numpy(seen @ to_mine)).numpy() @ light_sh
    true = sphere_shading(appearance, seen @ to_true)
    a, b = to_mine @ main_direction(light_sh), to_true @ main_direction(total_sh(appearance))
    angle = float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))) if a.any() and b.any() else np.nan
    return {"sphere": relative_error(np.maximum(mine, 0), np.maximum(true, 0)), "light_deg": angle}


def unseen_light(index: int, camera: Camera) -> Float[np.ndarray, "9 3"]:
    """Returns one of `UNSEEN_LIGHTS` in the space of a face that a camera sees, as spherical harmonics."""
    direction, color, ambient = UNSEEN_LIGHTS[index]
    in_camera = np.array(direction) / np.linalg.norm(direction) * [1, -1, -1]
    towards = camera.R[0].double().numpy().T @ in_camera
    light = np.pi * sh_basis(torch.from_numpy(towards)[None])[0].numpy()[:, None] * np.array(color)
    light[0] += ambient * np.sqrt(4 * np.pi)
    return light


def albedo_of(prediction: Prediction) -> Float[np.ndarray, "v 3"] | None:
    """Returns a reconstruction's albedo; where it has none the linear colours of its photograph, light included."""
    if prediction.albedo is not None:
        return prediction.albedo
    return None if prediction.colors is None else to_linear(prediction.colors)


def at_prior_verts(prediction: Prediction, values: Float[np.ndarray, "v c"], face: TrueFace) -> Array:
    """Returns values of a reconstruction's vertices at those of the truth, which has the prior's topology."""
    if prediction.in_prior_topology:
        return values
    surface = MeshSurface(prediction.verts, prediction.faces)
    alignment = surface_error(surface, prediction.landmarks, face.scan, face.landmarks).alignment
    found = surface.closest(alignment.undo(face.verts))
    return np.einsum("nk,nkc->nc", found.bary, values[prediction.faces[found.face]])


class AppearanceJudge:
    """Compares reconstructions with true faces.

    Args:
        shadow: whether reconstructions cast shadows on themselves when they are lit.
        lpips: see `metrics.lpips.load_lpips`, or None to leave the distance out.
        keep_pictures: whether what was compared is kept for the contact sheet.
    """

    def __init__(self, shadow: bool = True, lpips: torch.nn.Module | None = None, keep_pictures: bool = False):
        self._shadow, self._distance, self._keep = shadow, lpips, keep_pictures
        self._true_pictures: tuple[str, list[Drawing]] = ("", [])

    def __call__(self, prediction: Prediction, face: TrueFace) -> AppearanceErrors:
        """Returns the figures of a reconstruction.

        Args:
            prediction: the reconstruction.
            face: the truth in the prior's topology, with picture, camera, albedo and light.

        Raises:
            ValueError: a vertex is not finite, or another topology than the prior's cannot be laid onto the truth.
        """
        if not np.isfinite(prediction.verts).all():
            raise ValueError("it has vertices that are not finite")
        photo, true = face.photo, face.appearance
        assert photo is not None and photo.camera is not None and true is not None
        figures = dict.fromkeys(FIGURES, float("nan"))
        pictures: dict[str, Drawing] = {}
        albedo = albedo_of(prediction)
        if albedo is not None and prediction.camera is not None:
            transfer = transfer_of(prediction.verts, prediction.faces, self._shadow)
            figures |= self._reprojection(prediction, albedo, transfer, face, photo, true, pictures)
            figures["unseen_psnr"] = self._unseen(prediction, albedo, transfer, face, photo, true, pictures)
        placed = None if albedo is None else at_prior_verts(prediction, albedo, face)
        if placed is not None:
            figures["albedo"] = albedo_error(placed, true.albedo)
            figures["albedo_by_channel"] = albedo_error(placed, true.albedo, by_channel=True)
            figures["tone_deg"] = abs(typology_angle_deg(placed[_bare_skin()]) - true_tone_deg(true))
        if prediction.light_sh is not None and prediction.camera is not None:
            figures |= light_errors(prediction.light_sh, prediction.camera, true, photo.camera)
        kept = pictures if self._keep else {}
        return AppearanceErrors(figures, tone_class(true_tone_deg(true)), true.person, placed, kept)

    def _reprojection(
        self,
        prediction: Prediction,
        albedo: Array,
        transfer: Array,
        face: TrueFace,
        photo: TruePhoto,
        true: TrueAppearance,
        pictures: dict[str, Drawing],
    ) -> dict[str, float]:
        """Compares the picture with the reconstruction drawn over it, where both show the bare face."""
        assert prediction.camera is not None and photo.camera is not None
        size = photo.image.shape[:2]
        if prediction.light_sh is not None and prediction.albedo is not None:
            colors = albedo * shading(transfer, prediction.light_sh)
        else:
            colors = albedo  # the colours of the photograph, which hold its light
        drawn = draw(prediction.verts, prediction.faces, prediction.camera, colors, size)
        image, picture = photo.image / 255.0, to_srgb(drawn.image)
        bare = np.isin(true.labels, FACE_LABELS)
        whole = draw(face.verts, face.faces, photo.camera, true.albedo, size)
        mask = drawn.mask & whole.mask & bare
        pictures["photograph"] = Drawing(image, np.ones(size, bool))
        pictures["reprojection"] = Drawing(np.where(drawn.mask[..., None], picture, image), drawn.mask)
        pictures["true albedo"] = Drawing(to_srgb(whole.image), whole.mask)
        mine = draw(prediction.verts, prediction.faces, prediction.camera, albedo, size)
        both = mine.mask & whole.mask
        factor = scale_between(mine.image[both], whole.image[both]) if both.any() else 1.0
        pictures["albedo"] = Drawing(to_srgb(factor * mine.image), mine.mask)
        if not mask.any():
            return {"coverage": 0.0}
        out = {
            "psnr": min(IDENTICAL_DB, masked_psnr(picture, image, mask)),
            "ssim": masked_ssim(picture, image, mask),
            "coverage": float(mask.sum() / (whole.mask & bare).sum()),
        }
        if self._distance is not None:
            out["lpips"] = self._lpips(self._distance, picture, image, mask)
        return out

    @staticmethod
    def _lpips(distance: torch.nn.Module, mine: Array, true: Array, mask: Array) -> float:
        rows, columns = square_around(mask)
        inside = mask[..., None]
        planes = np.concatenate([np.where(inside, mine, true), true, inside], axis=2)[rows, columns].astype(
            np.float32
        )
        square = (LPIPS_PX, LPIPS_PX)
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(planes).permute(2, 0, 1)[None], square, mode="bilinear", antialias=True
        )[0].permute(1, 2, 0)
        a, b, there = resized[..., :3].numpy(), resized[..., 3:6].numpy(), resized[..., 6].numpy() > 0.5
        return masked_lpips(distance, a, b, there) if there.any() else float("nan")

    def _unseen(
        self,
        prediction: Prediction,
        albedo: Array,
        transfer: Array,
        face: TrueFace,
        photo: TruePhoto,
        true: TrueAppearance,
        pictures: dict[str, Drawing],
    ) -> float:
        """Returns the mean ratio in dB of true and reconstructed face under `UNSEEN_LIGHTS`, each up to exposure."""
        camera, size = photo.camera, photo.image.shape[:2]
        assert prediction.camera is not None and camera is not None
        name, expected = self._true_pictures
        if name != face.name:
            own = transfer_of(face.verts, face.faces, shadow=True)
            expected = [
                draw(face.verts, face.faces, camera, true.albedo * shading(own, unseen_light(i, camera)), size)
                for i in range(len(UNSEEN_LIGHTS))
            ]
            self._true_pictures = (face.name, expected)
        ratios = []
        for i, there in enumerate(expected):
            colors = albedo * shading(transfer, unseen_light(i, prediction.camera))
            mine = draw(prediction.verts, prediction.faces, prediction.camera, colors, size)
            mask = mine.mask & there.mask
            if not mask.any():
                continue
            bright = 0.9 / max(float(np.quantile(there.image[mask], 0.99)), 1e-9)
            factor = scale_between(mine.image[mask], bright * there.image[mask])
            a, b = to_srgb(factor * mine.image), to_srgb(bright * there.image)
            ratios.append(min(IDENTICAL_DB, masked_psnr(a, b, mask)))
            if i == 0:
                pictures["true, unseen light"] = Drawing(b, there.mask)
                pictures["unseen light"] = Drawing(a, mine.mask)
        return float(np.mean(ratios)) if ratios else float("nan")
