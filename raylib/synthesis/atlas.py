"""What is known of every texel of the face's texture before anybody is drawn: where it lies, and which part it is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter1d
from scipy.spatial import cKDTree

from raylib.morphable.model import REGIONS, LinearFaceModel, load_prior
from raylib.render import rasterize_pixels
from raylib.segmentation.labels import Label

CHANNELS = (
    "eye", "upper_lip", "lower_lip", "inner_mouth", "brow_along", "brow_across", "lid_gap", "lid_upper", "moustache",
    "chin_beard", "cheek_beard", "flush", "under_eye", "nostril", "crease", "forehead", "rim", "lip_line",
)  # fmt: skip
"""Names of the columns of `Atlas.maps`."""
NOISES = ("pores", "mottle", "patches", "strands", "freckles")
"""Names of the channels of the noise tile."""
FAR = 99.0
"""A distance that stands for: not near."""


@dataclass(frozen=True)
class Atlas:
    """The texels of a square texture.

    Attributes:
        side: of the texture.
        texel: index into the flattened texture of each texel that the face covers.
        face: triangle under each of them.
        bary: and where in it.
        position: on the mean face, millimetres.
        maps: a column a channel of `CHANNELS`. Distances are in millimetres on the mean face.
        pad_to: texels around the chart that are filled, flattened.
        pad_from: and the covered texel, as an index into `texel`, that each repeats.
        to_verts: weights of the texels that make a vertex colour.
        noise: tiles in the texture's resolution, mean 0 and deviation 1; freckles are ranks in 0..1.
    """

    side: int
    texel: Int[np.ndarray, " n"]
    face: Int[np.ndarray, " n"]
    bary: Float[np.ndarray, "n 3"]
    position: Float[np.ndarray, "n 3"]
    maps: Float[np.ndarray, "n c"]
    pad_to: Int[np.ndarray, " p"]
    pad_from: Int[np.ndarray, " p"]
    to_verts: sp.csr_matrix
    noise: Float[np.ndarray, "s s m"]


def face_labels(prior: LinearFaceModel) -> NDArray[np.uint8]:
    """Returns the label of each of the prior's triangles, brows left to the texture.

    Eyes and lips own their outlines, so that a triangle belongs to them where all its corners do.
    """
    assert prior.regions is not None
    region = np.array(REGIONS)[prior.regions.numpy()[prior.faces.numpy()]]
    label = np.full(len(region), Label.SKIN, np.uint8)
    label[(region == "nose").sum(1) >= 2] = Label.NOSE
    label[np.isin(region, ["upper_lip", "lower_lip"]).all(1)] = Label.MOUTH
    label[(region == "inner_mouth").any(1)] = Label.MOUTH
    label[(region == "eye").all(1)] = Label.EYES
    return label


@lru_cache(maxsize=4)
def atlas(side: int) -> Atlas:
    """Returns the atlas of a texture of `side` texels."""
    prior = load_prior()
    assert prior.uv is not None and prior.regions is not None
    uv, faces, mean = prior.uv.numpy(), prior.faces.numpy(), prior.mean.numpy()
    flat = np.stack([uv[:, 0] * side, (1 - uv[:, 1]) * side, np.ones(len(uv))], axis=1).astype(np.float32)
    fragments = rasterize_pixels(flat[None], faces, (side, side), threads=1)
    pix = fragments.pix_to_face[0].ravel()
    texel = np.flatnonzero(pix >= 0)
    face, bary = pix[texel], fragments.bary_coords[0].reshape(-1, 3)[texel]
    position = np.einsum("nk,nkc->nc", bary, mean[faces[face]])
    corners = faces[face]
    n, v = len(texel), len(mean)
    spread = sp.csr_matrix((bary.ravel(), (corners.ravel(), np.repeat(np.arange(n), 3))), shape=(v, n))
    total = np.asarray(spread.sum(1)).ravel()
    to_verts = sp.diags(1 / np.maximum(total, 1e-9)) @ spread
    distance, nearest = distance_transform_edt((pix < 0).reshape(side, side), return_indices=True)
    pad_to = np.flatnonzero((distance.ravel() > 0) & (distance.ravel() < 0.05 * side))
    index = np.full(side * side, -1)
    index[texel] = np.arange(n)
    pad_from = index[(nearest[0] * side + nearest[1]).ravel()[pad_to]]
    marks = mean[prior.landmark_verts.numpy()]
    return Atlas(
        side,
        texel,
        face,
        bary.astype(np.float32),
        position.astype(np.float32),
        _maps(prior, bary, corners, position, marks),
        pad_to,
        pad_from,
        to_verts.tocsr(),
        _noise(side, float(np.ptp(mean[:, 0])) * 1.25 / side),
    )


def _maps(
    prior: LinearFaceModel,
    bary: Float[np.ndarray, "n 3"],
    corners: Int[np.ndarray, "n 3"],
    at: Float[np.ndarray, "n 3"],
    marks: Float[np.ndarray, "68 3"],
) -> Float[np.ndarray, "n c"]:
    assert prior.regions is not None
    region = prior.regions.numpy()

    def share(name: str) -> Float[np.ndarray, " n"]:
        return ((region == REGIONS.index(name))[corners] * bary).sum(1)

    x, y = at[:, 0], at[:, 1]
    side = np.abs(x)

    def bump(cx: float, cy: float, rx: float, ry: float) -> Float[np.ndarray, " n"]:
        return np.asarray(np.exp(-0.5 * (((side - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)))

    def ramp(value: Float[np.ndarray, " n"] | float, low: float, high: float) -> Float[np.ndarray, " n"]:
        t = np.clip((value - low) / (high - low), 0, 1)
        return np.asarray(t * t * (3 - 2 * t))

    along, across = _brow_frame(at, marks)
    lid_gap, lid_upper = _lid_frame(at, marks)
    mouth = marks[48:60]
    lip_gap, _ = _to_line(at[:, :2], np.concatenate([mouth, mouth[:1]])[:, :2])
    lips = share("upper_lip") + share("lower_lip") + share("inner_mouth")
    rim = np.unique(_rim(prior.faces.numpy()))
    edge = cKDTree(prior.mean.numpy()[rim]).query(at)[0]
    below_nose, mouth_y, chin_y = marks[33, 1], marks[[48, 54], 1].mean(), marks[8, 1]
    corner = abs(marks[54, 0])
    skin = 1 - np.clip(lips * 1.5, 0, 1)
    moustache = ramp(below_nose - y, 1.5, 5) * ramp(y - mouth_y, -6, 1) * ramp(corner + 5 - side, 0, 9) * skin
    chin = ramp(mouth_y - 7 - y, -2, 5) * ramp(corner + 4 - side, 0, 10) * skin
    jaw_top = mouth_y + 4 + ramp(side, 45, 66) * 42
    cheek = ramp(jaw_top - y, 0, 16) * ramp(side, corner - 4, corner + 9) * skin
    cheek = np.maximum(cheek, ramp(mouth_y - 10 - y, 0, 9) * skin)
    neck = ramp(y - (chin_y - 8 - 16), 0, 14)  # under the jaw it thins out
    line = np.stack([marks[35] + [2, 3, 0], marks[54] + [10, 4, 0], marks[54] + [11, -9, 0]])[:, :2]
    crease, _ = _to_line(np.stack([side, y], axis=1), line)
    nostril = bump(abs(marks[34, 0]) + 1.6, marks[34, 1] + 2.4, 3.2, 2.0)
    flush = bump(36, -32, 13, 11) + 0.8 * bump(0, marks[30, 1], 10, 8) + 0.4 * bump(0, chin_y + 14, 12, 8)
    lower_lid = bump(abs(marks[46, 0]) - 4, marks[46, 1] - 6, 10, 3.4) * ramp(lid_gap, 0, 2.0)
    columns = {
        "eye": share("eye"),
        "upper_lip": share("upper_lip"),
        "lower_lip": share("lower_lip"),
        "inner_mouth": share("inner_mouth"),
        "brow_along": along,
        "brow_across": across,
        "lid_gap": lid_gap,
        "lid_upper": lid_upper,
        "moustache": moustache,
        "chin_beard": chin * neck,
        "cheek_beard": cheek * neck,
        "flush": flush,
        "under_eye": lower_lid,
        "nostril": nostril,
        "crease": crease,
        "forehead": ramp(y, 26, 36) * ramp(62 - side, 0, 15),
        "rim": ramp(edge, 0, 12),
        "lip_line": lip_gap,
    }
    return np.stack([columns[name] for name in CHANNELS], axis=1).astype(np.float32)


def _to_line(
    points: Float[np.ndarray, "n d"], line: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns the distance to a line through points, and where along it the nearest point is, 0..1."""
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    dense = np.concatenate([a + t * (b - a) for a, b in itertools.pairwise(line)] + [line[-1:]])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    distance, nearest = cKDTree(dense).query(points)
    return np.asarray(distance), np.asarray(arc[nearest] / arc[-1])


def _brow_frame(
    at: Float[np.ndarray, "n 3"], marks: Float[np.ndarray, "68 3"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns along the nearer brow 0 at the nose to 1 at the temple, beyond at the ends, and mm above its line."""
    line = marks[22:27]
    mirrored = at * np.where(at[:, :1] < 0, [[-1, 1, 1]], [[1, 1, 1]])
    distance, along = _to_line(mirrored, line)
    x = np.clip(mirrored[:, 0], line[0, 0], line[-1, 0])
    above = mirrored[:, 1] - np.interp(x, line[:, 0], line[:, 1])
    across = np.where(distance < 20, np.sign(above) * distance, FAR)
    inner = mirrored[:, 0] < line[0, 0]
    along = np.where(inner, -(line[0, 0] - mirrored[:, 0]) / 40, along)
    across = np.where(inner & (distance < 20), above, across)
    # Past the temple the nearest point is the line's end, around which a brow below the line would curl.
    last = line[-1] - line[-2]
    past = (mirrored - line[-1]) @ last / np.linalg.norm(last)
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    return np.where(past > 0, 1 + past / length, along), across


def _lid_frame(
    at: Float[np.ndarray, "n 3"], marks: Float[np.ndarray, "68 3"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns mm to the nearer eye's outline, and whether that is the upper lid's, 0 to 1."""
    mirrored = at * np.where(at[:, :1] < 0, [[-1, 1, 1]], [[1, 1, 1]])
    upper, lower = marks[42:46], marks[[42, 47, 46, 45]]
    to_upper, to_lower = _to_line(mirrored, upper)[0], _to_line(mirrored, lower)[0]
    return np.minimum(to_upper, to_lower), np.clip(0.5 + 0.5 * (to_lower - to_upper), 0, 1)


def _rim(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, " n"]:
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, count = np.unique(sides, axis=0, return_counts=True)
    return np.asarray(edges[count == 1].ravel())


def _noise(side: int, texel_mm: float) -> Float[np.ndarray, "s s m"]:
    """Returns tiles that repeat without a seam; always the same."""
    rng = np.random.default_rng(2113)

    def smooth(sigma_mm: float) -> Float[np.ndarray, "s s"]:
        field = gaussian_filter(rng.standard_normal((side, side)), sigma_mm / texel_mm, mode="wrap")
        return np.asarray((field - field.mean()) / field.std())

    pores = smooth(0.35) - 0.5 * smooth(0.9)
    mottle = smooth(2.2)
    patches = smooth(12.0)
    strands = uniform_filter1d(rng.standard_normal((side, side)), max(1, round(4.0 / texel_mm)), axis=0, mode="wrap")
    strands = gaussian_filter(strands, (0, 0.12 / texel_mm), mode="wrap")
    tiles = [
        pores / pores.std(),
        mottle,
        patches,
        (strands - strands.mean()) / strands.std(),
        _spots(side, texel_mm, rng),
    ]
    return np.stack(tiles, axis=2).astype(np.float32)


def _spots(side: int, texel_mm: float, rng: np.random.Generator) -> Float[np.ndarray, "s s"]:
    """Returns at each texel the density of freckles, 0..1, from which on a spot covers it; 1 where none ever does."""
    extent = side * texel_mm
    count = int(extent**2 / 9.0)
    centre, radius, rank = rng.random((count, 2)) * side, rng.gamma(4, 0.17, count) / texel_mm, rng.random(count)
    out = np.ones((side, side))
    for (cy, cx), r, k in zip(centre, radius, rank, strict=True):
        reach = int(np.ceil(2 * r)) + 1
        rows, columns = (np.arange(int(c) - reach, int(c) + reach + 1) for c in (cy, cx))
        d = np.hypot(rows[:, None] + 0.5 - cy, columns[None] + 0.5 - cx) / r
        value = k + (1 - k) * np.clip(d / 1.6, 0, 1) ** 2
        window = np.ix_(rows % side, columns % side)
        out[window] = np.minimum(out[window], value)
    return out


def covered(atlas: Atlas) -> Bool[np.ndarray, "s s"]:
    """Returns which texels the face covers."""
    mask = np.zeros(atlas.side * atlas.side, bool)
    mask[atlas.texel] = True
    return mask.reshape(atlas.side, atlas.side)
