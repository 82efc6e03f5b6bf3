"""Synthetic faces with their truth: `FaceSynthesizer(source, settings)(seeds)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from raylib.config import SynthesisSettings
from raylib.geometry.camera import FRONTAL, Camera, focal_from_fov, rotation_from_euler_deg
from raylib.lighting.color import LUMINANCE
from raylib.synthesis.atlas import atlas, face_labels
from raylib.synthesis.background import draw_background, pictures
from raylib.synthesis.expression import draw_expression
from raylib.synthesis.hair import HairStyle, draw_style
from raylib.synthesis.head import load_head, load_source
from raylib.synthesis.light import SceneLight, draw_light
from raylib.synthesis.people import person_of, random_for
from raylib.synthesis.photo import draw_effects, photograph
from raylib.synthesis.photo_skin import photo_skins
from raylib.synthesis.picture import Look, Picture, PictureMaker
from raylib.synthesis.skin import SkinLook, draw_complexion, draw_skin

GENERATOR_VERSION = "2"
"""Changes whenever a seed means another picture than before."""

_FRAME_POINT = np.array([0.0, -14.0, -20.0], np.float32)  # what stands in the middle of the picture, more or less


@dataclass(frozen=True)
class SyntheticFaces:
    """A batch of pictures and everything that is true about them.

    Positions, normals and light are in canonical face space, pixels as `raylib.geometry.camera` has them, colours
    linear RGB unless said otherwise.

    Attributes:
        seeds: of the pictures.
        person: number of the person that each shows; its split is `people.split_of`.
        image: sRGB, after camera effects.
        clean: light before camera effects.
        beyond_matte: the part of `clean` on the face that Lambert's law does not give: highlights and scattering.
        labels: in the order of `raylib.segmentation.labels.Label`.
        face_pixels: pixels that show nothing but the prior's mesh; there `clean - beyond_matte` is
            `texture * (transfer @ light_sh + lamp_color * lamp_visible * max(normal . lamp_direction, 0))`.
        landmarks: pixels, projected from their vertices.
        landmark_visible: whether the vertex is inside the picture and nothing is in front of it.
        camera: pinhole cameras in pixels of these pictures, with the pose.
        pose_deg: yaw, pitch and roll (`raylib.geometry.camera.euler_deg`).
        fov_deg: field of view of the picture.
        verts_mm: the face in the shipped prior's topology.
        identity: coefficients of the source model.
        prior_identity: the same in the prior's.
        expression: coefficients of the prior's blendshapes.
        albedo: of the vertices.
        texture: albedo in the prior's texture coordinates, 8-bit sRGB.
        light_sh: as `raylib.lighting.spherical_harmonics` wants it; surroundings without the lamp.
        lamp_direction: unit vector towards a lamp.
        lamp_color: what a white matte surface that faces it reflects; 0 where there is none.
        lamp_visible: share of the lamp that each vertex sees past head and hair.
        transfer: transfer coefficients of the vertices, shadowed by head and hair.
        normals: of what is seen, 0 on the background.
        depth: millimetres along the camera's axis, 0 on the background.
        light_kind: what the scene is.
        hair_kind: what is on the head.
        melanin: share of melanosomes in the skin's upper layer.
        effects: the camera's, as `photo.CameraEffects` has them.
    """

    seeds: Int[np.ndarray, " b"]
    person: Int[np.ndarray, " b"]
    image: UInt8[np.ndarray, "b h w 3"]
    clean: Float[np.ndarray, "b h w 3"]
    beyond_matte: Float[np.ndarray, "b h w 3"]
    labels: UInt8[np.ndarray, "b h w"]
    face_pixels: Bool[np.ndarray, "b h w"]
    landmarks: Float[np.ndarray, "b 68 2"]
    landmark_visible: Bool[np.ndarray, "b 68"]
    camera: Camera
    pose_deg: Float[np.ndarray, "b 3"]
    fov_deg: Float[np.ndarray, " b"]
    verts_mm: Float[np.ndarray, "b v 3"]
    identity: Float[np.ndarray, "b k"]
    prior_identity: Float[np.ndarray, "b p"]
    expression: Float[np.ndarray, "b e"]
    albedo: Float[np.ndarray, "b v 3"]
    texture: UInt8[np.ndarray, "b s s 3"]
    light_sh: Float[np.ndarray, "b 9 3"]
    lamp_direction: Float[np.ndarray, "b 3"]
    lamp_color: Float[np.ndarray, "b 3"]
    lamp_visible: Float[np.ndarray, "b v"]
    transfer: Float[np.ndarray, "b v 9"]
    normals: Float[np.ndarray, "b h w 3"]
    depth: Float[np.ndarray, "b h w"]
    light_kind: tuple[str, ...]
    hair_kind: tuple[str, ...]
    melanin: Float[np.ndarray, " b"]
    effects: tuple[dict[str, object], ...]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def turn_deg(self) -> Float[np.ndarray, " b"]:
        """The angle between the direction in which each face looks and that to the camera; roll is no part of it."""
        R, T = self.camera.R.double().numpy(), self.camera.T.double().numpy()
        towards = -np.einsum("bij,bi->bj", R, T) - _FRAME_POINT
        return np.asarray(np.degrees(np.arccos(towards[:, 2] / np.linalg.norm(towards, axis=1))))


def check_folders(settings: SynthesisSettings) -> None:
    """Reads what the settings name, so that a wrong folder is an error before any work.

    Raises:
        ConfigError: there are no pictures in one of them.
    """
    if settings.textures is not None:
        photo_skins(settings.textures, settings.texture_side)
    if settings.backgrounds is not None:
        pictures(settings.backgrounds)


@dataclass(frozen=True)
class _Person:
    identity: Float[np.ndarray, " k"]
    prior_identity: Float[np.ndarray, " p"]
    skin: SkinLook
    style: HairStyle
    clothes: Float[np.ndarray, " 3"]
    neckline: float
    noise_offset: tuple[int, int]
    oily: float
    melanin: float


class FaceSynthesizer:
    """Makes pictures of people who do not exist; the same seed gives the same picture.

    Args:
        source: where identities come from: `prior`, or a face model's file (ICT-FaceKit, SFM, BFM).
        settings: what pictures look like.

    Raises:
        ConfigError: the source is no face model, or a folder in the settings has no pictures.
    """

    def __init__(self, source: str | Path = "prior", settings: SynthesisSettings | None = None):
        self.settings = settings or SynthesisSettings()
        self.source = load_source(source)
        self.head = load_head()
        self._atlas = atlas(self.settings.texture_side)
        check_folders(self.settings)
        self._make = PictureMaker(self.head, self._atlas, face_labels(self.head.prior), self.settings)

    def __call__(self, seeds: Sequence[int]) -> SyntheticFaces:
        """Returns the pictures of these seeds with their truth."""
        rows = [self._one(int(seed)) for seed in seeds]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        cameras = columns.pop("camera")
        camera = Camera(*(torch.cat([getattr(c, f.name) for c in cameras]) for f in fields(Camera)))
        words = ("light_kind", "hair_kind", "effects")
        stacked: dict[str, Any] = {k: tuple(v) if k in words else np.stack(v) for k, v in columns.items()}
        return SyntheticFaces(camera=camera, **stacked)

    def _person(self, number: int) -> _Person:
        identity = random_for(number, "identity").standard_normal(self.source.count) * self.settings.identity_scale
        rng = random_for(number, "look")
        complexion = draw_complexion(rng)
        skin = draw_skin(rng, complexion)
        curly = (0.06, 0.15, 0.72)[complexion.group]
        style = draw_style(
            random_for(number, "hair"), complexion.hair_color, complexion.masculine, complexion.age, curly
        )
        cloth = (
            rng.uniform(0.01, 0.05, 3)
            if rng.random() < 0.35
            else np.clip(rng.uniform(0.02, 0.75) * np.exp(rng.normal(0, 0.35, 3)), 0, 0.9)
        )
        offset = rng.integers(0, 1 << 16, 2)
        return _Person(
            identity.astype(np.float32),
            self.source.to_prior(identity.astype(np.float32)),
            skin,
            style,
            cloth.astype(np.float32),
            float(rng.uniform(-172, -132)),
            (int(offset[0]), int(offset[1])),
            float(np.exp(rng.normal(-0.1, 0.4))),
            complexion.melanin,
        )

    def _one(self, seed: int) -> dict[str, Any]:
        s = self.settings
        number = person_of(seed, s.shots)
        still = number if s.shots_differ_in == "light" else seed  # what all shots of a person then share
        person = self._person(number)
        pose, fov, camera = self._camera(random_for(still, "pose"))
        rng = random_for(still, "expression")
        R = camera.R[0].double().numpy()
        gaze = _gaze(rng, -R.T @ camera.T[0].double().numpy())
        expression = draw_expression(rng, s.expressions, *gaze)
        to_face = R.T @ np.array(FRONTAL)
        light = draw_light(random_for(seed, "light"), to_face)
        background = self._background(still, light)
        look = Look(
            person.skin, person.style, person.clothes, person.neckline, person.noise_offset, person.oily, gaze,
            (to_face @ [0.0, -1.0, 0.0]).astype(np.float32), self._photo(number),
        )  # fmt: skip
        verts = self.head.verts(person.prior_identity, expression)
        picture = self._make(verts, camera, light, look, background)
        effects_rng = random_for(seed, "camera")
        effects = draw_effects(effects_rng, s.size_px, float(picture.albedo.mean(0) @ LUMINANCE))
        if not s.camera_effects:
            effects = type(effects)()
        row = _truth(picture)
        return row | {
            "seeds": np.int64(seed),
            "person": np.int64(number),
            "image": photograph(picture.clean, effects, effects_rng),
            "camera": camera,
            "pose_deg": pose,
            "fov_deg": np.float32(fov),
            "verts_mm": verts[: self.head.n_face_verts],
            "identity": person.identity,
            "prior_identity": person.prior_identity.astype(np.float32),
            "expression": expression,
            "light_sh": light.sh,
            "lamp_direction": light.lamp_direction,
            "lamp_color": light.lamp_color,
            "light_kind": light.kind,
            "hair_kind": person.style.kind,
            "melanin": np.float32(person.melanin),
            "effects": effects.as_dict(),
        }

    def _photo(self, number: int) -> Float[np.ndarray, "n 3"] | None:
        """Returns the skin from a photograph that a person has, None for drawn skin."""
        rng = random_for(number, "photo")
        if self.settings.textures is None or rng.random() >= self.settings.texture_share:
            return None
        skins = photo_skins(self.settings.textures, self.settings.texture_side)
        return skins[rng.integers(len(skins))]

    def _camera(self, rng: np.random.Generator) -> tuple[Float[np.ndarray, " 3"], float, Camera]:
        s = self.settings
        wide = rng.random() < 0.5
        yaw = rng.uniform(-1, 1) * s.yaw_deg if wide else np.clip(rng.normal(0, 0.3), -1, 1) * s.yaw_deg
        pitch = np.clip(rng.normal(0, 0.35), -1, 1) * s.pitch_deg
        roll = np.clip(rng.normal(0, 0.35), -1, 1) * s.roll_deg
        pose = np.array([yaw, pitch, roll], np.float32)
        low, high = s.fov_deg
        fov = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        side = float(rng.uniform(*s.side_mm))
        focal = focal_from_fov(fov, torch.tensor([float(s.size_px)]))
        distance = side * float(focal) / s.size_px
        R = rotation_from_euler_deg(torch.from_numpy(pose)[None])
        shift = rng.normal(0, 0.03, 2).clip(-0.08, 0.08) * side
        point = torch.from_numpy(_FRAME_POINT)
        T = torch.tensor([[shift[0], shift[1], distance]], dtype=torch.float32) - R @ point
        centre = torch.full((1, 2), s.size_px / 2)
        return pose, fov, Camera(R, T, focal, centre)

    def _background(self, number: int, light: SceneLight) -> Float[np.ndarray, "s s 3"]:
        s = self.settings
        tone = np.maximum(light.sh[0], 0.02) / np.sqrt(4 * np.pi) + 0.3 * light.lamp_color
        return draw_background(random_for(number, "background"), s.size_px, tone, s.backgrounds)


def _gaze(rng: np.random.Generator, camera_at: Float[np.ndarray, " 3"]) -> tuple[float, float]:
    """Returns yaw and pitch of the gaze: two in three people look into the camera as far as eyes turn."""
    wander = rng.normal(0, 1, 2) * [9, 5]
    if rng.random() < 0.65:
        x, y, z = camera_at
        wander = 0.15 * wander + np.rad2deg([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))])
    return float(np.clip(wander[0], -26, 26)), float(np.clip(wander[1], -16, 14))


def _truth(picture: Picture) -> dict[str, object]:
    return {f.name: getattr(picture, f.name) for f in fields(Picture)}
