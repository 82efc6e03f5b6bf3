"""The fused soft renderer: rasterise, interpolate and blend in one pass, without lists of faces. Forward pass.

Every face within reach of a pixel adds to it (Liu et al., "Soft Rasterizer", ICCV 2019, as PyTorch3D blends):

    p_i = sigmoid(-d_i / sigma)                      coverage; d_i squared distance to the edge, negative inside
    p_i = 1 inside, 2 sigmoid(-d_i / sigma) outside  coverage in the one-sided variant
    w_i = p_i exp(-(z_i - z_min) / gamma)            weight; z_i depth
    color = sum w_i a_i / (sum w_i + delta)          a_i interpolated attributes
    share = delta / (sum w_i + delta)                of the background; delta = exp(-(z_far - z_min) / gamma) >= 1e-10
    alpha = 1 - product (1 - p_i)

Coverage falls across every edge of every face, so that on meshes whose triangles span few pixels PyTorch3D's alpha is
well below one in the middle of the surface. The one-sided variant does not leak: alpha is one wherever a face is, and
falls outside the silhouette only.

A tile streams its faces front to back and keeps z_min, the sums and the product per pixel; when z_min falls, the sums
are rescaled. A row of a tile whose pixels are all opaque and far nearer than a face leaves that face out.

Coordinates are pixels turned by 180 degrees (see `binning`) and depths. Barycentric coordinates are those of the
nearest point of the projected triangle after perspective correction: with edge functions e_i they are
max(s e_i / z_i, 0), normalised, where s is the sign of the area; area and its rounding drop out.

A row of a tile is one flat array, eight floats a quantity, scratch values first, then what lasts over the faces, then
the channels: loops over one array at constant offsets are what the compiler vectorises, which is why each is a small
function of such a row.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from raylib.parallel import KERNEL
from raylib.render.binning import TILE

SOFT_KERNEL = {**KERNEL, "fastmath": {"contract"}}
"""Nothing here promises equal bits, so that multiplications and additions may fuse."""

MIN_BACKGROUND = 1e-10
"""Lowest weight of the background beside the faces' weights (delta above)."""

FAR = np.float32(1e30)
"""Depth of a pixel that the face does not reach."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_MIN_EDGE_SQUARED = np.float32(1e-20)
_TINY = np.float32(1e-30)
_HIDDEN_EXPONENT = np.float32(-25.0)  # e^-25 = 1e-11: a face this much farther than z_min adds nothing
_OPAQUE = np.float32(1e-7)  # product of (1 - p) below which another face does not change alpha

# Offsets of a row's quantities: scratch, then what lasts.
BARY0, BARY1, BARY2, DEPTH, PROB, SCALE, WEIGHT = 0, 8, 16, 24, 32, 40, 48
X, NEAREST, TOTAL, CLEAR = 56, 64, 72, 80
_CHANNELS = 88


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float whose bits are this integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(**SOFT_KERNEL)
def fast_exp(x):
    """e^x of a float to 3e-7 relative, in operations that vectorise; held at e^80 above, zero below e^-60.

    Zero, because products of tiny numbers would become denormal, which the processor multiplies in microcode.
    """
    x = x if x < np.float32(80.0) else np.float32(80.0)
    tiny = x < np.float32(-60.0)
    x = np.float32(-60.0) if tiny else x
    t = x * np.float32(1.4426950409)
    n = np.float32(np.floor(t + np.float32(0.5)))
    r = (t - n) * np.float32(0.6931471806)
    p = np.float32(0.0013888889) * r + np.float32(0.0083333333)
    p = p * r + np.float32(0.0416666667)
    p = p * r + np.float32(0.1666666667)
    p = p * r + np.float32(0.5)
    p = p * r + _ONE
    p = p * r + _ONE
    power = p * _float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
    return _ZERO if tiny else power


@njit(**SOFT_KERNEL)
def row_is_hidden(row, first, last, face_depth, inv_gamma):
    """Whether a face at `face_depth` or beyond changes no pixel of this row."""
    hidden = True
    for i in range(first, last + 1):
        far = (row[NEAREST + i] - face_depth) * inv_gamma < _HIDDEN_EXPONENT
        hidden &= far & (row[CLEAR + i] < _OPAQUE)
    return hidden


@njit(**SOFT_KERNEL)
def row_coverage(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, y, first, last, blur_radius, inv_sigma, one_sided):
    """Coordinates, depth and coverage of the eight pixels of a row, zero without a hit; tells if there is a hit."""
    ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
    sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
    s0, s1, s2 = sign / z0, sign / z1, sign / z2
    inv_a = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
    inv_b = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
    inv_c = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
    any_hit = False
    for i in range(TILE):
        x = row[X + i]
        t0 = ((x - x1) * cy - (y - y1) * cx) * s0
        t1 = ((y - y2) * bx - (x - x2) * by) * s1
        t2 = ((x - x0) * ay - (y - y0) * ax) * s2
        inside = (t0 > _ZERO) & (t1 > _ZERO) & (t2 > _ZERO)
        t0 = t0 if t0 > _ZERO else _ZERO
        t1 = t1 if t1 > _ZERO else _ZERO
        t2 = t2 if t2 > _ZERO else _ZERO
        scale = _ONE / (t0 + t1 + t2)
        c0, c1, c2 = t0 * scale, t1 * scale, t2 * scale
        t = (ax * (x - x0) + ay * (y - y0)) * inv_a
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - x0 - t * ax, y - y0 - t * ay
        dist_a = dx * dx + dy * dy
        t = (bx * (x - x0) + by * (y - y0)) * inv_b
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - x0 - t * bx, y - y0 - t * by
        dist_b = dx * dx + dy * dy
        t = (cx * (x - x1) + cy * (y - y1)) * inv_c
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - x1 - t * cx, y - y1 - t * cy
        dist_c = dx * dx + dy * dy
        dist = dist_a if dist_a < dist_b else dist_b
        dist = dist if dist < dist_c else dist_c
        hit = (i >= first) & (i <= last) & (inside | (dist < blur_radius))
        any_hit |= hit
        prob = _ONE / (_ONE + fast_exp((-dist if inside else dist) * inv_sigma))
        if one_sided:
            prob = _ONE if inside else prob + prob
        row[PROB + i] = prob if hit else _ZERO
        row[DEPTH + i] = c0 * z0 + c1 * z1 + c2 * z2 if hit else FAR
        row[BARY0 + i] = c0 if hit else _ZERO
        row[BARY1 + i] = c1 if hit else _ZERO
        row[BARY2 + i] = c2 if hit else _ZERO
    return any_hit


@njit(**SOFT_KERNEL)
def _add_hits(row, inv_gamma, lanes):
    """Adds a face's weights to the pixels of a row and keeps the factors by which earlier sums shrink."""
    for i in range(lanes):
        prob, depth, before = row[PROB + i], row[DEPTH + i], row[NEAREST + i]
        step = (before - depth) * inv_gamma
        falling = step > _ZERO
        decay = fast_exp(-step if falling else step)
        rescale = decay if falling else _ONE
        weight = prob * (_ONE if falling else decay)
        product = row[CLEAR + i] * (_ONE - prob)
        row[NEAREST + i] = depth if falling else before
        row[CLEAR + i] = product if product > _TINY else _ZERO
        row[TOTAL + i] = row[TOTAL + i] * rescale + weight
        row[SCALE + i] = rescale
        row[WEIGHT + i] = weight


@njit(**SOFT_KERNEL)
def _add_channel(row, at, a0, a1, a2, lanes):
    """Adds a face's attribute, given at its corners, to the sums of a row that begin at `at`."""
    for i in range(lanes):
        value = row[BARY0 + i] * a0 + row[BARY1 + i] * a1 + row[BARY2 + i] * a2
        k = at + np.uint64(i)  # unsigned: an index that might be negative does not vectorise
        row[k] = row[k] * row[SCALE + i] + row[WEIGHT + i] * value


@njit(**SOFT_KERNEL)
def soft_forward(part, parts, face_verts, attributes, boxes, face_lists, offsets, columns, rows, blur_radius, sigma,
                 gamma, one_sided, z_far, n_images, tile_columns, tile_rows, out, aux):  # fmt: skip
    """Writes the blended image, every `parts`-th row of tiles from `part` on.

    Args:
        part: this part.
        parts: number of parts.
        face_verts: (faces, 9) turned x, y in pixels and depth of the vertices of each face.
        attributes: (faces, 3 * C) attributes of the three corners of each face.
        boxes: (faces, 4) from `bin_faces`.
        face_lists: from `bin_faces`, front to back.
        offsets: from `bin_faces`.
        columns: x of the pixel centres.
        rows: y of the pixel centres.
        blur_radius: squared distance in pixels up to which a face reaches beyond its edges.
        sigma: width of the coverage, squared pixels.
        gamma: depth over which weights fall by e.
        one_sided: whether coverage is one inside a face.
        z_far: depth of the background.
        n_images: number of images.
        tile_columns: tiles from left to right.
        tile_rows: tiles from top to bottom.
        out: (images, height, width, C + 2) blended attributes, share of the background, alpha.
        aux: (images, height, width, 3) z_min, the inverse of the sum of weights, and the product in alpha.
    """
    height, width = rows.shape[0], columns.shape[0]
    n_channels = attributes.shape[1] // 3
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    lanes = boxes.shape[1] * 2  # eight, unknown to the compiler: it would unroll short loops and not vectorise them
    work = np.zeros((TILE, _CHANNELS + n_channels * TILE), np.float32)
    for tile_row in range(part, n_images * tile_rows, parts):
        n = tile_row // tile_rows
        top = (tile_row - n * tile_rows) * TILE
        bottom = min(height, top + TILE) - 1
        for tile_column in range(tile_columns):
            tile = tile_row * tile_columns + tile_column
            left = tile_column * TILE
            right = min(width, left + TILE) - 1
            work[:, TOTAL:] = _ZERO
            work[:, NEAREST : NEAREST + TILE] = z_far
            work[:, CLEAR : CLEAR + TILE] = _ONE
            for i in range(TILE):
                work[:, X + i] = columns[min(left + i, width - 1)]
            for q in range(offsets[tile], offsets[tile + 1]):
                f = np.int64(face_lists[q])
                x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
                x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
                x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
                first = max(np.int64(boxes[f, 0]), left) - left
                last = min(np.int64(boxes[f, 1]), right) - left
                face_depth = min(z0, min(z1, z2))
                for y in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
                    row = work[y - top]
                    if row_is_hidden(row, first, last, face_depth, inv_gamma):
                        continue
                    if not row_coverage(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, rows[y], first, last, blur_radius,
                                        inv_sigma, one_sided):  # fmt: skip
                        continue
                    _add_hits(row, inv_gamma, lanes)
                    for c in range(n_channels):
                        a0, a1, a2 = (
                            attributes[f, c],
                            attributes[f, n_channels + c],
                            attributes[f, 2 * n_channels + c],
                        )
                        _add_channel(row, np.uint64(_CHANNELS + c * TILE), a0, a1, a2, lanes)
            for y in range(top, bottom + 1):
                row = work[y - top]
                for x in range(left, right + 1):
                    i = x - left
                    background = max(fast_exp((row[NEAREST + i] - z_far) * inv_gamma), np.float32(MIN_BACKGROUND))
                    inv_total = _ONE / (row[TOTAL + i] + background)
                    for c in range(n_channels):
                        out[n, y, x, c] = row[_CHANNELS + c * TILE + i] * inv_total
                    out[n, y, x, n_channels] = background * inv_total
                    out[n, y, x, n_channels + 1] = _ONE - row[CLEAR + i]
                    aux[n, y, x, 0] = row[NEAREST + i]
                    aux[n, y, x, 1] = inv_total
                    aux[n, y, x, 2] = row[CLEAR + i]
