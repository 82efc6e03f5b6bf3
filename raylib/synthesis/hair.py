"""Hair and what is worn on the head: a shell over the scalp, in columns that run from the crown down as strands do.

The shell is a grid. A column leaves the crown in one direction and follows the scalp to the hairline; from there
hair may go on over the forehead or hang down. Strands come from noise along the columns, which also frays the
shell's edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from raylib.synthesis.head import Head, load_head
from raylib.synthesis.kernels import mesh_normals

COLUMNS = 56
_ON_SCALP, _BEYOND = 15, 9
ROWS = _ON_SCALP + _BEYOND
_CENTRE = np.array([0.0, 20.0, -82.0])
_POLAR = np.linspace(0.0, np.deg2rad(150.0), 51)
# The hairline of the mean head's left half from forehead to nape, millimetres.
_HAIRLINE = np.array([
    (0, 69, 4), (30, 66, -6), (52, 54, -26), (64, 34, -46), (73, 14, -66), (76, -2, -72), (80, 26, -86), (80, 22,
    -104), (76, -6, -122), (60, -42, -142), (30, -58, -154), (0, -60, -156),
], dtype=np.float64)  # fmt: skip
_BAND = np.array([
    (0, 63, 7), (40, 56, -7), (66, 40, -42), (80, 30, -80), (78, 18, -115), (50, -2, -158), (0, -10, -172),
], dtype=np.float64)  # fmt: skip
_OPENING = np.array([
    (0, 66, 4), (36, 60, -8), (60, 40, -34), (70, 5, -52), (72, -40, -56), (74, -95, -60), (80, -110, -100),
    (60, -104, -128), (0, -100, -150),
], dtype=np.float64)  # fmt: skip
"""Lower edges of a cap and of a scarf."""


@dataclass(frozen=True)
class HairStyle:
    """What is on a head; lengths in millimetres.

    Attributes:
        kind: `bald`, `hair`, `cap` or `scarf`.
        thickness: of the shell at its fullest.
        front_lift: additional thickness over the forehead.
        waves: size of the shell's undulation.
        curl: 0 straight to 1 frizzy.
        recede: how far the hairline lies back at the temples.
        fringe: length over the forehead beyond the hairline.
        hang: length beyond the hairline at sides and back.
        parting: azimuth of the parting in radians, where hair lies flat.
        fray: how ragged the tips are.
        color: linear RGB.
        brim: length of a cap's brim.
        phase: of the undulation.
    """

    kind: str
    thickness: float = 0.0
    front_lift: float = 0.0
    waves: float = 0.0
    curl: float = 0.0
    recede: float = 0.0
    fringe: float = 0.0
    hang: float = 0.0
    parting: float = 0.0
    fray: float = 5.0
    color: tuple[float, float, float] = (0.02, 0.015, 0.01)
    brim: float = 0.0
    phase: float = 0.0

    @property
    def is_hair(self) -> bool:
        """Whether the shell is hair, not cloth."""
        return self.kind == "hair"


@dataclass(frozen=True)
class HairMesh:
    """The shell of one head.

    Attributes:
        verts: canonical space, millimetres.
        normals: unit, outwards.
        tangents: unit, along the strands.
        strand: around the head and along the strand, millimetres.
        edge: how far the shell goes on from here, millimetres; at the hairline 0.
    """

    verts: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    tangents: Float[np.ndarray, "n 3"]
    strand: Float[np.ndarray, "n 2"]
    edge: Float[np.ndarray, " n"]


def draw_style(
    rng: np.random.Generator, color: tuple[float, float, float], masculine: bool, age: float, curly: float
) -> HairStyle:
    """Returns what somebody wears.

    Args:
        rng: random numbers.
        color: of the hair, linear RGB.
        masculine: whether short hair and baldness are frequent.
        age: 0 young to 1 old.
        curly: probability of frizzy hair.
    """
    if masculine:
        names, shares = (
            ("bald", "buzz", "short", "full", "long", "cap", "scarf"),
            (0.09, 0.18, 0.34, 0.21, 0.06, 0.11, 0.01),
        )
    else:
        names, shares = (
            ("bald", "buzz", "short", "full", "long", "cap", "scarf"),
            (0.02, 0.04, 0.13, 0.14, 0.48, 0.07, 0.12),
        )
    kind = str(rng.choice(names, p=shares))
    frizzy = rng.random() < curly
    phase, parting = float(rng.uniform(0, 2 * np.pi)), float(rng.normal(0, 0.5))
    recede = float(max(0.0, rng.normal(-6 + 26 * age * masculine, 7)))
    if kind == "bald":
        return HairStyle("bald", color=color)
    if kind in ("cap", "scarf"):
        cloth = rng.choice(
            [rng.uniform(0.01, 0.06, 3), rng.uniform(0.02, 0.6, 3), np.full(3, rng.uniform(0.02, 0.7))]
        )
        dye = (float(cloth[0]), float(cloth[1]), float(cloth[2]))
        if kind == "cap":
            brim = float(rng.uniform(45, 75)) if rng.random() < 0.55 else 0.0
            return HairStyle("cap", float(rng.uniform(6, 14)), color=dye, brim=brim, waves=0.8, phase=phase)
        return HairStyle("scarf", float(rng.uniform(7, 14)), waves=2.0, color=dye, phase=phase)
    common = {
        "curl": float(rng.uniform(0.6, 1)) if frizzy else float(rng.beta(1, 4)),
        "parting": parting,
        "phase": phase,
    }
    if kind == "buzz":
        thickness = float(rng.uniform(1.5, 4.0))
        return HairStyle("hair", thickness, recede=recede, fray=3.0, waves=0.2, color=color, **common)
    if kind == "short":
        return HairStyle(
            "hair", float(rng.uniform(7, 16)), float(rng.uniform(0, 12)), float(rng.uniform(0.8, 2.5)), recede=recede,
            fringe=float(max(0, rng.normal(2, 12))), hang=float(rng.uniform(0, 10)), fray=float(rng.uniform(5, 12)),
            color=color, **common,
        )  # fmt: skip
    if kind == "full":
        thickness = float(rng.uniform(35, 65)) if frizzy else float(rng.uniform(15, 32))
        return HairStyle(
            "hair", thickness, float(rng.uniform(0, 14)), float(rng.uniform(2, 5)), recede=recede * 0.6,
            fringe=float(max(0, rng.normal(8, 16))), hang=float(rng.uniform(0, 35)), fray=float(rng.uniform(6, 14)),
            color=color, **common,
        )  # fmt: skip
    thickness = float(rng.uniform(22, 45)) if frizzy else float(rng.uniform(9, 22))
    return HairStyle(
        "hair", thickness, float(rng.uniform(0, 8)), float(rng.uniform(1.5, 5)), recede=0.0,
        fringe=float(max(0, rng.normal(4, 18))), hang=float(rng.uniform(70, 320)), fray=float(rng.uniform(8, 25)),
        color=color, **common,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scalp:
    """Where rays from the middle of the head leave it, for each azimuth and polar angle."""

    corners: Int[np.ndarray, "a p 3"]
    bary: Float[np.ndarray, "a p 3"]


def _azimuths() -> Float[np.ndarray, " a"]:
    return np.arange(COLUMNS) * (2 * np.pi / COLUMNS) - np.pi


@lru_cache(maxsize=1)
def _scalp() -> _Scalp:
    head = load_head()
    around, polar = np.meshgrid(_azimuths(), _POLAR, indexing="ij")
    directions = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], axis=-1)
    rays = directions.reshape(-1, 3)
    a, b, c = (head.mean[head.faces[:, k]].astype(np.float64) - _CENTRE for k in range(3))
    best = np.zeros(len(rays))
    corners, bary = np.zeros((len(rays), 3), np.int64), np.zeros((len(rays), 3))
    inverse = np.linalg.pinv(np.stack([a, b, c], axis=2))  # ray = inverse^-1 @ (weights / distance)
    for start in range(0, len(rays), 256):
        weights = np.einsum("fij,rj->rfi", inverse, rays[start : start + 256])
        total = weights.sum(2)
        hit = (weights > -1e-9).all(2) & (total > 1e-9)
        reach = np.where(hit, 1 / np.maximum(total, 1e-9), 0)
        face = reach.argmax(1)
        rows = np.arange(len(face))
        best[start : start + 256] = reach[rows, face]
        corners[start : start + 256] = head.faces[face]
        w = weights[rows, face]
        bary[start : start + 256] = w / np.maximum(w.sum(1, keepdims=True), 1e-9)
    if (best <= 0).any():
        raise ValueError("the head has a hole")
    shape = (COLUMNS, len(_POLAR), 3)
    return _Scalp(corners.reshape(shape), bary.reshape(shape).astype(np.float32))


def _polar_of(line: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " a"]:
    """Returns the polar angle of a line around the head at each column's azimuth."""
    d = line - _CENTRE
    azimuth = np.arctan2(d[:, 0], d[:, 2])
    polar = np.arctan2(np.hypot(d[:, 0], d[:, 2]), d[:, 1])
    return np.interp(np.abs(_azimuths()), azimuth, polar)


@lru_cache(maxsize=1)
def grid_faces() -> Int[np.ndarray, "f 3"]:
    """Returns the triangles of the shell, outwards."""
    return _grid_faces(COLUMNS, ROWS)


def _grid_faces(columns: int, rows: int) -> Int[np.ndarray, "f 3"]:
    j, k = np.meshgrid(np.arange(columns), np.arange(rows - 1), indexing="ij")
    right = (j + 1) % columns
    a, b, c, d = j * rows + k, j * rows + k + 1, right * rows + k, right * rows + k + 1
    both = np.stack([np.stack([a, b, c], -1), np.stack([c, b, d], -1)], axis=2)
    return both.reshape(-1, 3).astype(np.int64)


@lru_cache(maxsize=1)
def coarse_grid() -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "f 3"], sp.csr_matrix]:
    """Returns every other vertex of the shell, their triangles, and the weights that give all vertices from them."""
    rows, columns = ROWS // 2, COLUMNS // 2
    keep = (np.arange(0, COLUMNS, 2)[:, None] * ROWS + np.arange(0, ROWS, 2)[None]).ravel()
    j, k = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS), indexing="ij")
    corners, weights = [], []
    for dj in (0, 1):
        for dk in (0, 1):
            column, row = (j // 2 + dj) % columns, np.minimum(k // 2 + dk, rows - 1)
            corners.append((column * rows + row).ravel())
            weights.append((np.where(j % 2, 0.5, 1.0 - dj) * np.where(k % 2, 0.5, 1.0 - dk)).ravel())
    n = COLUMNS * ROWS
    place = (np.tile(np.arange(n), 4), np.concatenate(corners))
    return (
        keep,
        _grid_faces(columns, rows),
        sp.csr_matrix((np.concatenate(weights), place), shape=(n, rows * columns)),
    )


def hair_mesh(style: HairStyle, verts: Float[np.ndarray, "v 3"], down: Float[np.ndarray, " 3"]) -> HairMesh | None:
    """Returns the shell on one head, None on a bald one.

    Args:
        style: what is worn.
        verts: of the head.
        down: unit vector along which hair hangs.
    """
    if style.kind == "bald":
        return None
    scalp = _scalp()
    surface = np.einsum("apk,apkc->apc", scalp.bary, verts[scalp.corners])  # (columns, polar, 3)
    azimuth = _azimuths()
    end = _polar_of({"cap": _BAND, "scarf": _OPENING}.get(style.kind, _HAIRLINE))
    side = np.abs(azimuth)
    if style.is_hair:
        end = end - np.deg2rad(style.recede * 0.75) * np.exp(-(((side - 0.55) / 0.35) ** 2))
    front = np.exp(-((side / 0.95) ** 4))
    share = np.linspace(0.03, 1, _ON_SCALP)[None] ** 0.85
    fringe = style.fringe * front if style.is_hair else 0.0 * front
    wave = np.sin(3 * azimuth + style.phase) + 0.6 * np.sin(7 * azimuth + 2.1 * style.phase)
    fringe = fringe * (1 + 0.25 * wave)
    if style.is_hair and style.fringe > 0:
        fringe = fringe * (1 + 0.5 * np.tanh(2 * azimuth * np.sign(style.parting)))
    polar = np.concatenate([end[:, None] * share, np.repeat(end[:, None], _BEYOND, 1)], axis=1)
    steps = np.linspace(0, 1, _BEYOND + 1)[1:]
    polar[:, _ON_SCALP:] += fringe[:, None] * steps / 95.0  # the forehead is about 95 mm from the centre
    place = np.clip(polar / _POLAR[-1] * (len(_POLAR) - 1), 0, len(_POLAR) - 1.001)
    low = place.astype(int)
    t = (place - low)[..., None]
    rows = np.arange(COLUMNS)[:, None]
    base = surface[rows, low] * (1 - t) + surface[rows, low + 1] * t
    centre = surface[:, :20].mean((0, 1)) * [1, 0, 1] + [0, _CENTRE[1], 0]
    outwards = base - centre
    outwards = outwards / np.linalg.norm(outwards, axis=2, keepdims=True)

    inside = np.clip(1 - (np.arange(ROWS) / (_ON_SCALP - 1)) ** 3, 0, 1)[None]
    edge_mm = min(style.thickness, 5.0 if style.is_hair else style.thickness)
    thick = edge_mm + (style.thickness - edge_mm) * np.sqrt(inside)
    thick = thick + style.front_lift * front[:, None] * inside * np.linspace(0, 1, ROWS)[None] * 1.6
    thick = thick + style.waves * inside**0.5 * _undulation(style, azimuth)
    if style.is_hair:
        parted = np.exp(-((((azimuth - style.parting + np.pi) % (2 * np.pi) - np.pi) / 0.16) ** 2))
        thick = thick * (1 - 0.4 * parted[:, None] * np.linspace(1, 0.4, ROWS)[None])
    shell = base + outwards * np.maximum(thick, 0.8)[..., None]
    if style.is_hair and style.hang > 0:
        _hang(shell, style, azimuth, 1 - front, down)
    if style.brim:
        _brim(shell, style, azimuth)
    shell = shell.astype(np.float32)
    along = np.diff(shell, axis=1)
    length = np.linalg.norm(along, axis=2)
    arc = np.concatenate([np.zeros((COLUMNS, 1)), np.cumsum(length, axis=1)], axis=1)
    tangents = np.concatenate([along[:, :1], along], axis=1)
    tangents = tangents / np.maximum(np.linalg.norm(tangents, axis=2, keepdims=True), 1e-6)
    around = (azimuth + np.pi)[:, None] * 80.0 + 0 * arc
    flat = shell.reshape(-1, 3)
    return HairMesh(
        flat,
        mesh_normals(flat, grid_faces()),
        tangents.reshape(-1, 3).astype(np.float32),
        np.stack([around, arc], axis=2).reshape(-1, 2).astype(np.float32),
        (arc[:, -1:] - arc).reshape(-1).astype(np.float32),
    )


def _undulation(style: HairStyle, azimuth: Float[np.ndarray, " a"]) -> Float[np.ndarray, "a r"]:
    k = np.arange(ROWS)[None]
    p, a = style.phase, azimuth[:, None]
    smooth = (
        np.sin(5 * a + 0.35 * k + p) + 0.7 * np.sin(9 * a - 0.5 * k + 2 * p) + 0.5 * np.sin(14 * a + 0.9 * k + 3 * p)
    )
    rough = np.sin(17 * a + 2.3 * k + 5 * p) + np.sin(23 * a - 2.9 * k + 7 * p)
    return np.asarray(smooth + style.curl * rough)


def _hang(
    shell: Float[np.ndarray, "a r 3"],
    style: HairStyle,
    azimuth: Float[np.ndarray, " a"],
    share: Float[np.ndarray, " a"],
    down: Float[np.ndarray, " 3"],
) -> None:
    """Lets the rows beyond the hairline fall, around the neck and not through it."""
    length = style.hang * share * (1 + 0.06 * np.sin(6 * azimuth + style.phase))
    step = (length / _BEYOND)[:, None]
    away = np.stack([np.sin(azimuth), 0 * azimuth, np.cos(azimuth)], axis=1)
    for k in range(_ON_SCALP, ROWS):
        before = shell[:, k - 1]
        tangent = before - shell[:, k - 2]
        tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
        direction = 0.45 * tangent + 0.55 * down + 0.04 * style.waves * np.sin(0.9 * k + 4 * azimuth)[:, None] * away
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        point = before + direction * step
        # Stay outside of an upright ellipse around ears and neck.
        x, z = point[:, 0] / (84.0 + 0.5 * style.thickness), (point[:, 2] + 92.0) / 88.0
        radius = np.hypot(x, z)
        push = np.where((radius < 1) & (point[:, 1] < 30), 1 / np.maximum(radius, 0.3), 1.0)
        moved = np.stack([point[:, 0] * push, point[:, 1], (point[:, 2] + 92.0) * push - 92.0], axis=1)
        moves = (share * style.hang > 1.0)[:, None]
        shell[:, k] = np.where(moves, before + (moved - before) * np.clip(share * 1.4, 0, 1)[:, None], shell[:, k])


def _brim(shell: Float[np.ndarray, "a r 3"], style: HairStyle, azimuth: Float[np.ndarray, " a"]) -> None:
    wide = np.clip(np.cos(azimuth * 1.1), 0, 1) * (np.abs(azimuth) < 1.3)
    reach = style.brim * np.sqrt(wide)
    t = np.linspace(0, 1, _BEYOND + 1)[1:]
    start = shell[:, _ON_SCALP - 1]
    forward = np.array([0.0, -0.22, 1.0])
    forward = forward / np.linalg.norm(forward)
    shell[:, _ON_SCALP:] = start[:, None] + (reach[:, None] * t)[..., None] * forward
    shell[:, _ON_SCALP:, 1] -= (np.abs(azimuth)[:, None] * t * 7.0) * (wide[:, None] > 0)


@lru_cache(maxsize=1)
def _mean_polar() -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, " v"]]:
    """Returns azimuth (0 in front) and polar angle of the mean head's vertices."""
    d = load_head().mean - _CENTRE
    return np.abs(np.arctan2(d[:, 0], d[:, 2])), np.arctan2(np.hypot(d[:, 0], d[:, 2]), d[:, 1])


def under_hair(style: HairStyle, head: Head) -> Float[np.ndarray, " v"]:
    """Returns how much of the hair's colour the scalp has at each vertex of the head, 0..1."""
    azimuth, polar = _mean_polar()
    columns = _azimuths()
    right = columns >= 0
    end = np.interp(azimuth, columns[right], _polar_of(_HAIRLINE)[right])
    end = end - np.deg2rad(style.recede * 0.75) * np.exp(-(((azimuth - 0.55) / 0.35) ** 2))
    share = np.clip((end - polar) / 0.10 + 0.2, 0, 1)
    share[np.abs(head.mean[:, 0]) > 80] *= 0.3  # ears
    return share.astype(np.float32)
