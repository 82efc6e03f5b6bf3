"""How one face's surface looks: what is drawn for a person, and the albedo texture that follows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from raylib.lighting.color import linear_to_srgb
from raylib.synthesis.atlas import Atlas
from raylib.synthesis.head import Head
from raylib.synthesis.spectra import skin_table, table_column, table_row
from raylib.synthesis.texture_kernels import paint

Rgb = tuple[float, float, float]

EYE_RADIUS_MM = 12.3
_SRGB = (linear_to_srgb(torch.arange(4096) / 4095) * 255).round().byte().numpy()
_EYE_DEPTH_MM = 8.6  # how far the eyeball's centre lies behind the line between the eye's corners

# Linear RGB of hair from black over brown, red and blond to grey and white.
_HAIR = np.array([
    (0.010, 0.009, 0.009), (0.016, 0.012, 0.010), (0.032, 0.020, 0.013), (0.065, 0.036, 0.019), (0.115, 0.064,
    0.032), (0.165, 0.058, 0.020), (0.300, 0.190, 0.085), (0.420, 0.300, 0.160), (0.180, 0.175, 0.170), (0.480,
    0.470, 0.455),
])  # fmt: skip
# Share of each among people of pale, middle and dark skin.
_HAIR_SHARES = np.array([
    (0.07, 0.10, 0.17, 0.20, 0.14, 0.08, 0.10, 0.06, 0.05, 0.03),
    (0.32, 0.26, 0.18, 0.08, 0.03, 0.01, 0.02, 0.01, 0.06, 0.03),
    (0.62, 0.20, 0.06, 0.01, 0.00, 0.00, 0.01, 0.01, 0.06, 0.03),
])  # fmt: skip
_IRISES = np.array([
    (0.020, 0.010, 0.006), (0.045, 0.022, 0.010), (0.090, 0.048, 0.018), (0.095, 0.085, 0.035), (0.070, 0.100, 0.080),
    (0.075, 0.125, 0.180), (0.110, 0.150, 0.190),
])  # fmt: skip
_IRIS_SHARES = np.array([
    (0.10, 0.18, 0.14, 0.14, 0.12, 0.20, 0.12),
    (0.50, 0.34, 0.10, 0.03, 0.02, 0.01, 0.00),
    (0.72, 0.24, 0.03, 0.01, 0.00, 0.00, 0.00),
])  # fmt: skip


class SkinLook(NamedTuple):
    """A person's surface; millimetres, linear RGB, melanin and blood in steps of the skin table."""

    melanin: float
    blood: float
    uneven: float
    blotches: float
    flush: float
    tan: float
    under_eye: float
    freckles: float
    freckle_depth: float
    blemishes: float
    pores: float
    age: float
    furrow: float
    lip_blood: float
    lip_melanin: float
    lipstick: float
    lipstick_color: Rgb
    moustache: float
    chin_beard: float
    cheek_beard: float
    beard: float
    stubble: float
    beard_color: Rgb
    brow: float
    brow_width: float
    brow_lift: float
    strokes: float
    brow_color: Rgb
    lashes: float
    lid_fold: float
    socket: float
    iris_radius: float
    pupil_radius: float
    iris_color: Rgb
    iris_inner: Rgb
    eye_red: float
    upper_teeth: float
    lower_teeth: float
    tooth_length: float
    tooth_color: Rgb


class Complexion(NamedTuple):
    """What skin and hair have in common, drawn first.

    Attributes:
        melanin: share of melanosomes in the epidermis.
        hair_color: linear RGB.
        masculine: whether beard grows.
        age: 0 young to 1 old.
        group: 0 pale, 1 middle, 2 dark.
    """

    melanin: float
    hair_color: Rgb
    masculine: bool
    age: float
    group: int


def _rgb(values: Float[np.ndarray, " 3"]) -> Rgb:
    return float(values[0]), float(values[1]), float(values[2])


def draw_complexion(rng: np.random.Generator) -> Complexion:
    """Returns a person's colours: all tones of human skin are about equally frequent."""
    tone = rng.random()
    melanin = float(np.exp(np.log(0.0045) + tone * (np.log(0.22) - np.log(0.0045))))
    group = int(tone > 0.42) + int(tone > 0.72)
    kind = int(rng.choice(len(_HAIR), p=_HAIR_SHARES[group]))
    age = float(rng.beta(1.3, 1.8))
    if age > 0.7 and rng.random() < 0.6:
        kind = int(rng.choice([8, 9]))
    hair = _HAIR[kind] * np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.05, 3))
    return Complexion(melanin, _rgb(hair), bool(rng.random() < 0.5), age, group)


def draw_skin(rng: np.random.Generator, complexion: Complexion) -> SkinLook:
    """Returns the surface of a person with this complexion."""
    pale = complexion.group == 0
    hair = np.array(complexion.hair_color)
    made_up = not complexion.masculine and rng.random() < 0.45
    beard = stubble = moustache = chin = cheek = 0.0
    if complexion.masculine:
        style = rng.choice(["shaven", "stubble", "full", "goatee", "moustache"], p=[0.36, 0.26, 0.2, 0.1, 0.08])
        stubble = float(rng.uniform(0.03, 0.16) if style in ("shaven", "moustache") else rng.uniform(0.15, 0.4))
        moustache = chin = cheek = 1.0
        if style == "full":
            beard, moustache, cheek = (
                float(rng.uniform(0.8, 1)),
                float(rng.uniform(0.75, 1)),
                float(rng.uniform(0.7, 1)),
            )
        elif style == "goatee":
            beard, cheek = float(rng.uniform(0.75, 1)), 0.0
        elif style == "moustache":
            beard, chin, cheek = float(rng.uniform(0.75, 1)), 0.0, 0.0
    iris = _IRISES[rng.choice(len(_IRISES), p=_IRIS_SHARES[complexion.group])] * np.exp(rng.normal(0, 0.15))
    brow_hair = np.minimum(hair, 0.11 * np.array([1.0, 0.74, 0.5])) * rng.uniform(0.45, 0.85)
    lipstick = np.array([(0.42, 0.03, 0.05), (0.50, 0.12, 0.14), (0.30, 0.05, 0.10), (0.55, 0.22, 0.18)])
    tooth = np.array([0.66, 0.62, 0.52]) * rng.uniform(0.75, 1.05) * np.array([1, 1, rng.uniform(0.85, 1.05)])
    return SkinLook(
        melanin=table_row(complexion.melanin),
        blood=table_column(float(np.exp(rng.normal(np.log(0.022), 0.28)))),
        uneven=float(rng.gamma(2, 0.13)),
        blotches=float(rng.gamma(2, 0.25)),
        flush=float(abs(rng.normal(0, 5)) + 1.5) + 4 * made_up,
        tan=float(rng.uniform(-0.3, 0.8)),
        under_eye=float(rng.gamma(2, 1.1) + 1.5 * complexion.age),
        freckles=float(rng.beta(1, 3) if pale and rng.random() < 0.5 else 0.08 * rng.random()),
        freckle_depth=float(rng.uniform(3, 9)),
        blemishes=float(rng.choice([0.004, 0.02, 0.06], p=[0.6, 0.3, 0.1])),
        pores=float(rng.uniform(0.015, 0.06)),
        age=complexion.age,
        furrow=float(rng.uniform(0.55, 0.9)),
        lip_blood=float(rng.uniform(8, 15)),
        lip_melanin=float(rng.uniform(-1, 3) if pale else rng.uniform(-3, 1.5)),
        lipstick=float(rng.uniform(0.3, 0.85)) if made_up else 0.0,
        lipstick_color=_rgb(lipstick[rng.integers(len(lipstick))] * rng.uniform(0.6, 1.1)),
        moustache=moustache,
        chin_beard=chin,
        cheek_beard=cheek,
        beard=beard,
        stubble=stubble,
        beard_color=_rgb(np.minimum(hair, 0.3) * rng.uniform(0.7, 1.1) + 0.004),
        brow=float(rng.uniform(0.85, 1.0)),
        brow_width=float(rng.uniform(3.4, 5.6) * (1.0 if complexion.masculine else 0.82)),
        brow_lift=float(rng.normal(-6.0, 1.8)),  # where photographs have it: tests/benchmarks/bench_skin.py
        strokes=float(rng.uniform(0.8, 1.2)),
        brow_color=_rgb(brow_hair),
        lashes=float(rng.uniform(0.7, 0.9)) + (0.15 if made_up else 0.0),
        lid_fold=float(rng.uniform(2.5, 5.5)),
        socket=float(rng.uniform(0.4, 0.8)),
        iris_radius=float(rng.normal(0.495, 0.012)),
        pupil_radius=float(rng.uniform(0.15, 0.30)),
        iris_color=_rgb(iris),
        iris_inner=_rgb(iris * np.array([0.7, 0.45, 0.2]) * rng.uniform(0, 1)),
        eye_red=float(rng.gamma(2, 0.12)),
        upper_teeth=float(rng.uniform(0.8, 1)),
        lower_teeth=float(rng.uniform(0.2, 0.9)),
        tooth_length=float(rng.uniform(6.5, 9.0)),
        tooth_color=_rgb(tooth),
    )


def eyeballs(head: Head, verts: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "2 3"]:
    """Returns the centres of the right and the left eyeball."""
    marks = head.prior.landmark_verts.numpy()
    corners = verts[marks[[[36, 39], [42, 45]]]].mean(1)
    return (corners + np.array([0.0, 0.0, -_EYE_DEPTH_MM])).astype(np.float32)


def gaze_vectors(yaw_deg: float, pitch_deg: float) -> Float[np.ndarray, "2 3"]:
    """Returns the unit vectors out of the pupils of both eyes for a gaze towards the subject's left and upwards."""
    yaw, pitch = np.deg2rad(yaw_deg), np.deg2rad(pitch_deg)
    one = [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    return np.array([one, one], np.float32)


def paint_texture(
    head: Head,
    atlas: Atlas,
    look: SkinLook,
    verts: Float[np.ndarray, "v 3"],
    gaze: Float[np.ndarray, "2 3"],
    noise_offset: tuple[int, int],
    base: Float[np.ndarray, "n 3"] | None = None,
) -> Float[np.ndarray, "s s 4"]:
    """Returns the albedo texture of a face, linear RGB, and in the fourth channel how much of it is brow.

    Args:
        head: the head's mesh.
        atlas: of the texture's size.
        look: what was drawn for the person.
        verts: the face's vertices with its expression; the lids and lips open there.
        gaze: see `gaze_vectors`.
        noise_offset: shift of the noise tiles.
        base: albedo of the atlas's texels from a photograph, linear RGB; drawn skin without.
    """
    canvas = np.zeros((atlas.side * atlas.side, 4), np.float32)
    marks = verts[head.prior.landmark_verts.numpy()]
    lips = np.stack([marks[[60, 61, 62, 63, 64], :2], marks[[60, 67, 66, 65, 64], :2]]).astype(np.float32)
    photo = np.empty((0, 3), np.float32) if base is None else np.ascontiguousarray(base, dtype=np.float32)
    paint(
        look, skin_table(), photo, atlas.texel, atlas.side, atlas.maps, atlas.position, head.faces, atlas.face,
        atlas.bary, verts, atlas.noise, np.array(noise_offset), eyeballs(head, verts), gaze, lips, canvas,
    )  # fmt: skip
    canvas[atlas.pad_to] = canvas[atlas.texel[atlas.pad_from]]
    return canvas.reshape(atlas.side, atlas.side, 4)


def to_texture_bytes(texture: Float[np.ndarray, "s s 4"]) -> UInt8[np.ndarray, "s s 4"]:
    """Returns the texture as it is stored: 8-bit sRGB and brow."""
    step = np.clip(texture * 4095 + 0.5, 0, 4095).astype(np.uint16)
    out: UInt8[np.ndarray, "s s 4"] = _SRGB[step]
    out[..., 3] = (texture[..., 3] * 255 + 0.5).astype(np.uint8)
    return out


def vertex_albedo(atlas: Atlas, texture: Float[np.ndarray, "s s 4"]) -> Float[np.ndarray, "v 3"]:
    """Returns the texture's mean around each of the face's vertices."""
    texels = texture.reshape(-1, 4)[atlas.texel, :3]
    return np.asarray(atlas.to_verts @ texels, dtype=np.float32)
