"""The fused soft renderer: rasterise, interpolate and blend in one pass, forward and backward, without lists of faces.

Every face within reach of a pixel adds to it (Liu et al., "Soft Rasterizer", ICCV 2019, as PyTorch3D blends):

    p_i = sigmoid(-d_i / sigma)                      coverage; d_i squared distance to the edge, negative inside
    w_i = p_i exp(-(z_i - z_min) / gamma)            weight; z_i depth
    color = sum w_i a_i / (sum w_i + delta)          a_i interpolated attributes
    share = delta / (sum w_i + delta)                of the background; delta = max(exp(-(z_far - z_min)/gamma), 1e-10)
    alpha = 1 - product (1 - p_i)

A tile streams its faces front to back and keeps z_min, the sums and the product per pixel; when z_min falls, the sums
are rescaled. A row of a tile whose pixels are all opaque and far nearer than a face leaves that face out. The backward
pass recomputes each hit, sums a face's gradients in registers over the tile, and scatters once per face and tile.

Coordinates are pixels turned by 180 degrees (see `binning`) and depths. Barycentric coordinates are those of the
nearest point of the projected triangle after perspective correction: with edge functions e_i they are
max(s e_i / z_i, 0), normalised, where s is the sign of the area; area and its rounding drop out.

Lanes of eight pixels are kept in one flat array, eight floats a quantity.
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

_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_FAR = np.float32(1e30)  # depth of a pixel without a hit
_PIXELS = TILE * TILE
_MIN_EDGE_SQUARED = np.float32(1e-20)
_HIDDEN_EXPONENT = np.float32(-25.0)  # e^-25 = 1e-11: a face this much farther than z_min adds nothing
_OPAQUE = np.float32(1e-7)  # product of (1 - p) below which another face does not change alpha

# Lanes: offsets of eight floats each.
_X, _BARY0, _BARY1, _BARY2, _DEPTH, _SCALE, _WEIGHT, _NEAREST, _SUM, _CLEAR = 0, 8, 16, 24, 32, 40, 48, 56, 64, 72
_PROB, _DOT, _G0, _G1, _G2, _G_ALPHA = 80, 88, 96, 104, 112, 120
_LANES = 128


@intrinsic
def _float_of_bits(typing_context, bits):  # noqa: ARG001
    """The float whose bits are this integer."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(**SOFT_KERNEL)
def _exp(x):
    """e^x of a float to 3e-7 relative, in operations that vectorise; x is held to [-86, 80]."""
    x = x if x < np.float32(80.0) else np.float32(80.0)
    x = x if x > np.float32(-86.0) else np.float32(-86.0)
    t = x * np.float32(1.4426950409)
    n = np.float32(np.floor(t + np.float32(0.5)))
    r = (t - n) * np.float32(0.6931471806)
    p = np.float32(0.0013888889) * r + np.float32(0.0083333333)
    p = p * r + np.float32(0.0416666667)
    p = p * r + np.float32(0.1666666667)
    p = p * r + np.float32(0.5)
    p = p * r + _ONE
    p = p * r + _ONE
    return p * _float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(**SOFT_KERNEL)
def _row_is_hidden(nearest, clear, row, first, last, face_depth, inv_gamma):
    """Whether a face at `face_depth` or beyond changes no pixel of this row."""
    hidden = True
    for i in range(first, last + 1):
        far = (nearest[row + i] - face_depth) * inv_gamma < _HIDDEN_EXPONENT
        hidden &= far & (clear[row + i] < _OPAQUE)
    return hidden


@njit(**SOFT_KERNEL)
def _row_coverage(lanes, x0, y0, z0, x1, y1, z1, x2, y2, z2, y, first, last, blur_radius, inv_sigma):
    """Coordinates, depth and coverage of the eight pixels of a row, zero without a hit; tells if there is a hit."""
    ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
    sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
    s0, s1, s2 = sign / z0, sign / z1, sign / z2
    inv_a = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
    inv_b = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
    inv_c = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
    any_hit = False
    for i in range(TILE):
        x = lanes[_X + i]
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
        prob = _ONE / (_ONE + _exp((-dist if inside else dist) * inv_sigma))
        lanes[_PROB + i] = prob if hit else _ZERO
        lanes[_DEPTH + i] = c0 * z0 + c1 * z1 + c2 * z2 if hit else _FAR
        lanes[_BARY0 + i] = c0 if hit else _ZERO
        lanes[_BARY1 + i] = c1 if hit else _ZERO
        lanes[_BARY2 + i] = c2 if hit else _ZERO
    return any_hit


@njit(**SOFT_KERNEL)
def soft_forward(part, parts, face_verts, attributes, boxes, face_lists, offsets, columns, rows, blur_radius, sigma,
                 gamma, z_far, n_images, tile_columns, tile_rows, out, aux):  # fmt: skip
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
        z_far: depth of the background.
        n_images: number of images.
        tile_columns: tiles from left to right.
        tile_rows: tiles from top to bottom.
        out: (images, height, width, C + 2) blended attributes, share of the background, alpha.
        aux: (images, height, width, 2) z_min and the inverse of the sum of weights, for the backward pass.
    """
    height, width = rows.shape[0], columns.shape[0]
    n_channels = attributes.shape[1] // 3
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    lanes = np.zeros(_LANES, np.float32)
    nearest = np.empty(_PIXELS, np.float32)
    total = np.empty(_PIXELS, np.float32)
    clear = np.empty(_PIXELS, np.float32)
    blended = np.empty(n_channels * _PIXELS, np.float32)
    for tile_row in range(part, n_images * tile_rows, parts):
        n = tile_row // tile_rows
        top = (tile_row - n * tile_rows) * TILE
        bottom = min(height, top + TILE) - 1
        for tile_column in range(tile_columns):
            tile = tile_row * tile_columns + tile_column
            left = tile_column * TILE
            right = min(width, left + TILE) - 1
            nearest[:] = z_far
            total[:] = _ZERO
            clear[:] = _ONE
            blended[:] = _ZERO
            for i in range(TILE):
                lanes[_X + i] = columns[min(left + i, width - 1)]
            for q in range(offsets[tile], offsets[tile + 1]):
                f = np.int64(face_lists[q])
                x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
                x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
                x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
                first = max(np.int64(boxes[f, 0]), left) - left
                last = min(np.int64(boxes[f, 1]), right) - left
                face_depth = min(z0, min(z1, z2))
                for y_index in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
                    row = (y_index - top) * TILE
                    if _row_is_hidden(nearest, clear, row, first, last, face_depth, inv_gamma):
                        continue
                    if not _row_coverage(lanes, x0, y0, z0, x1, y1, z1, x2, y2, z2, rows[y_index], first, last,
                                         blur_radius, inv_sigma):  # fmt: skip
                        continue
                    for i in range(TILE):
                        lanes[_NEAREST + i] = nearest[row + i]
                        lanes[_SUM + i] = total[row + i]
                        lanes[_CLEAR + i] = clear[row + i]
                    for i in range(TILE):
                        prob, depth, before = lanes[_PROB + i], lanes[_DEPTH + i], lanes[_NEAREST + i]
                        step = (before - depth) * inv_gamma
                        falling = step > _ZERO
                        decay = _exp(-step if falling else step)
                        rescale = decay if falling else _ONE
                        weight = prob * (_ONE if falling else decay)
                        lanes[_NEAREST + i] = depth if falling else before
                        lanes[_CLEAR + i] = lanes[_CLEAR + i] * (_ONE - prob)
                        lanes[_SUM + i] = lanes[_SUM + i] * rescale + weight
                        lanes[_SCALE + i] = rescale
                        lanes[_WEIGHT + i] = weight
                    for i in range(TILE):
                        nearest[row + i] = lanes[_NEAREST + i]
                        total[row + i] = lanes[_SUM + i]
                        clear[row + i] = lanes[_CLEAR + i]
                    for c in range(n_channels):
                        a0, a1, a2 = attributes[f, c], attributes[f, n_channels + c], attributes[f, 2 * n_channels + c]
                        start = c * _PIXELS + row
                        for i in range(TILE):
                            value = lanes[_BARY0 + i] * a0 + lanes[_BARY1 + i] * a1 + lanes[_BARY2 + i] * a2
                            blended[start + i] = blended[start + i] * lanes[_SCALE + i] + lanes[_WEIGHT + i] * value
            for y_index in range(top, bottom + 1):
                for x_index in range(left, right + 1):
                    p = (y_index - top) * TILE + x_index - left
                    background = max(_exp((nearest[p] - z_far) * inv_gamma), np.float32(MIN_BACKGROUND))
                    inv_total = _ONE / (total[p] + background)
                    for c in range(n_channels):
                        out[n, y_index, x_index, c] = blended[c * _PIXELS + p] * inv_total
                    out[n, y_index, x_index, n_channels] = background * inv_total
                    out[n, y_index, x_index, n_channels + 1] = _ONE - clear[p]
                    aux[n, y_index, x_index, 0] = nearest[p]
                    aux[n, y_index, x_index, 1] = inv_total


@njit(**SOFT_KERNEL)
def soft_backward(part, parts, face_verts, attributes, boxes, face_lists, offsets, columns, rows, blur_radius, sigma,
                  gamma, n_images, tile_columns, tile_rows, by_image, out, aux, grad_out, grad_verts,
                  grad_attributes):  # fmt: skip
    """Adds the gradients of the image to vertices and attributes of the faces.

    Args:
        part: this part.
        parts: number of parts.
        face_verts: as in `soft_forward`, likewise the following.
        attributes: (faces, 3 * C).
        boxes: from `bin_faces`.
        face_lists: from `bin_faces`, in any order.
        offsets: from `bin_faces`.
        columns: x of the pixel centres.
        rows: y of the pixel centres.
        blur_radius: squared reach.
        sigma: width of the coverage.
        gamma: depth over which weights fall by e.
        n_images: number of images.
        tile_columns: tiles from left to right.
        tile_rows: tiles from top to bottom.
        by_image: whether parts are images, which share no faces, or rows of tiles, which do.
        out: (images, height, width, C + 2) of the forward pass.
        aux: (images, height, width, 2) of the forward pass.
        grad_out: gradients of `out`.
        grad_verts: (1 if by_image else parts, faces, 9) sums, zero at first.
        grad_attributes: (1 if by_image else parts, faces, 3 * C) sums, zero at first.
    """
    height, width = rows.shape[0], columns.shape[0]
    n_channels = attributes.shape[1] // 3
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    lanes = np.zeros(_LANES, np.float32)
    sums = np.zeros((9 + 3 * n_channels) * TILE, np.float32)
    nearest = np.empty(_PIXELS, np.float32)
    inv_total = np.empty(_PIXELS, np.float32)
    clear = np.empty(_PIXELS, np.float32)
    share_term = np.empty(_PIXELS, np.float32)
    grad_alpha = np.empty(_PIXELS, np.float32)
    color = np.empty(n_channels * _PIXELS, np.float32)
    grad_color = np.empty(n_channels * _PIXELS, np.float32)
    verts_sum = grad_verts[0] if by_image else grad_verts[part]
    attributes_sum = grad_attributes[0] if by_image else grad_attributes[part]
    for tile_row in range(n_images * tile_rows):
        n = tile_row // tile_rows
        if (n if by_image else tile_row) % parts != part:
            continue
        top = (tile_row - n * tile_rows) * TILE
        bottom = min(height, top + TILE) - 1
        for tile_column in range(tile_columns):
            tile = tile_row * tile_columns + tile_column
            if offsets[tile] == offsets[tile + 1]:
                continue
            left = tile_column * TILE
            right = min(width, left + TILE) - 1
            any_gradient = False
            for p in range(_PIXELS):
                y_index, x_index = min(top + (p >> 3), height - 1), min(left + (p & 7), width - 1)
                within = (top + (p >> 3) < height) and (left + (p & 7) < width)
                nearest[p] = aux[n, y_index, x_index, 0]
                inv_total[p] = aux[n, y_index, x_index, 1]
                clear[p] = _ONE - out[n, y_index, x_index, n_channels + 1]
                share = grad_out[n, y_index, x_index, n_channels] if within else _ZERO
                share_term[p] = share * out[n, y_index, x_index, n_channels]
                grad_alpha[p] = grad_out[n, y_index, x_index, n_channels + 1] if within else _ZERO
                any_gradient |= (share != _ZERO) | (grad_alpha[p] != _ZERO)
                for c in range(n_channels):
                    color[c * _PIXELS + p] = out[n, y_index, x_index, c]
                    grad_color[c * _PIXELS + p] = grad_out[n, y_index, x_index, c] if within else _ZERO
                    any_gradient |= grad_color[c * _PIXELS + p] != _ZERO
            if not any_gradient:
                continue
            for i in range(TILE):
                lanes[_X + i] = columns[min(left + i, width - 1)]
            for q in range(offsets[tile], offsets[tile + 1]):
                f = np.int64(face_lists[q])
                x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
                x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
                x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
                first = max(np.int64(boxes[f, 0]), left) - left
                last = min(np.int64(boxes[f, 1]), right) - left
                face_depth = min(z0, min(z1, z2))
                ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
                sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
                s0, s1, s2 = sign / z0, sign / z1, sign / z2
                inv_a = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
                inv_b = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
                inv_c = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
                touched = False
                for y_index in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
                    row = (y_index - top) * TILE
                    if _row_is_hidden(nearest, clear, row, first, last, face_depth, inv_gamma):
                        continue
                    y = rows[y_index]
                    if not _row_coverage(lanes, x0, y0, z0, x1, y1, z1, x2, y2, z2, y, first, last, blur_radius,
                                         inv_sigma):  # fmt: skip
                        continue
                    if not touched:
                        sums[:] = _ZERO
                        touched = True
                    for i in range(TILE):
                        lanes[_NEAREST + i] = nearest[row + i]
                        lanes[_SUM + i] = inv_total[row + i]
                        lanes[_CLEAR + i] = clear[row + i]
                        lanes[_G_ALPHA + i] = grad_alpha[row + i]
                        lanes[_DOT + i] = -share_term[row + i]
                    for i in range(TILE):
                        behind = (lanes[_NEAREST + i] - lanes[_DEPTH + i]) * inv_gamma
                        share = _exp(behind if behind < _ZERO else _ZERO) * lanes[_SUM + i]
                        lanes[_SCALE + i] = share if lanes[_DEPTH + i] < _FAR else _ZERO
                        lanes[_WEIGHT + i] = lanes[_SCALE + i] * lanes[_PROB + i]
                        lanes[_G0 + i] = _ZERO
                        lanes[_G1 + i] = _ZERO
                        lanes[_G2 + i] = _ZERO
                    for c in range(n_channels):
                        a0, a1, a2 = attributes[f, c], attributes[f, n_channels + c], attributes[f, 2 * n_channels + c]
                        start = c * _PIXELS + row
                        sum0, sum1, sum2 = (9 + c) * TILE, (9 + n_channels + c) * TILE, (9 + 2 * n_channels + c) * TILE
                        for i in range(TILE):
                            g = grad_color[start + i]
                            value = lanes[_BARY0 + i] * a0 + lanes[_BARY1 + i] * a1 + lanes[_BARY2 + i] * a2
                            lanes[_DOT + i] += g * (value - color[start + i])
                            h = g * lanes[_WEIGHT + i]
                            lanes[_G0 + i] += h * a0
                            lanes[_G1 + i] += h * a1
                            lanes[_G2 + i] += h * a2
                            sums[sum0 + i] += h * lanes[_BARY0 + i]
                            sums[sum1 + i] += h * lanes[_BARY1 + i]
                            sums[sum2 + i] += h * lanes[_BARY2 + i]
                    for i in range(TILE):
                        x = lanes[_X + i]
                        e0 = (x - x1) * cy - (y - y1) * cx
                        e1 = (y - y2) * bx - (x - x2) * by
                        e2 = (x - x0) * ay - (y - y0) * ax
                        t0, t1, t2 = e0 * s0, e1 * s1, e2 * s2
                        in0, in1, in2 = t0 > _ZERO, t1 > _ZERO, t2 > _ZERO
                        inside = in0 & in1 & in2
                        scale = _ONE / ((t0 if in0 else _ZERO) + (t1 if in1 else _ZERO) + (t2 if in2 else _ZERO))
                        prob, share = lanes[_PROB + i], lanes[_SCALE + i]
                        hit = prob > _ZERO
                        grad_prob = share * lanes[_DOT + i]
                        grad_depth = -prob * grad_prob * inv_gamma
                        grad_alpha_term = lanes[_CLEAR + i] * lanes[_G_ALPHA + i]
                        grad_dist = -prob * inv_sigma * (grad_alpha_term + (_ONE - prob) * grad_prob)
                        # Coordinates: normalised, clipped at zero, divided by depth.
                        c0, c1, c2 = lanes[_BARY0 + i], lanes[_BARY1 + i], lanes[_BARY2 + i]
                        g0 = lanes[_G0 + i] + grad_depth * z0
                        g1 = lanes[_G1 + i] + grad_depth * z1
                        g2 = lanes[_G2 + i] + grad_depth * z2
                        mean = g0 * c0 + g1 * c1 + g2 * c2
                        g0 = (g0 - mean) * scale * s0 if in0 & hit else _ZERO
                        g1 = (g1 - mean) * scale * s1 if in1 & hit else _ZERO
                        g2 = (g2 - mean) * scale * s2 if in2 & hit else _ZERO
                        # Distance: towards the nearest point of the nearest edge.
                        t_a = (ax * (x - x0) + ay * (y - y0)) * inv_a
                        t_a = t_a if t_a > _ZERO else _ZERO
                        t_a = t_a if t_a < _ONE else _ONE
                        t_b = (bx * (x - x0) + by * (y - y0)) * inv_b
                        t_b = t_b if t_b > _ZERO else _ZERO
                        t_b = t_b if t_b < _ONE else _ONE
                        t_c = (cx * (x - x1) + cy * (y - y1)) * inv_c
                        t_c = t_c if t_c > _ZERO else _ZERO
                        t_c = t_c if t_c < _ONE else _ONE
                        dax, day = x0 + t_a * ax - x, y0 + t_a * ay - y
                        dbx, dby = x0 + t_b * bx - x, y0 + t_b * by - y
                        dcx, dcy = x1 + t_c * cx - x, y1 + t_c * cy - y
                        dist_a, dist_b, dist_c = dax * dax + day * day, dbx * dbx + dby * dby, dcx * dcx + dcy * dcy
                        use_a = (dist_a <= dist_b) & (dist_a <= dist_c)
                        use_b = dist_b <= dist_c  # where a is not the nearest
                        pull = (-_TWO if inside else _TWO) * grad_dist
                        point_x = pull * (dax if use_a else (dbx if use_b else dcx))
                        point_y = pull * (day if use_a else (dby if use_b else dcy))
                        point_x = point_x if hit else _ZERO
                        point_y = point_y if hit else _ZERO
                        share0 = _ONE - t_a if use_a else (_ONE - t_b if use_b else _ZERO)
                        share1 = t_a if use_a else (_ZERO if use_b else _ONE - t_c)
                        share2 = _ZERO if use_a else (t_b if use_b else t_c)
                        sums[i] += g1 * (y2 - y) + g2 * (y - y1) + share0 * point_x
                        sums[8 + i] += g1 * (x - x2) + g2 * (x1 - x) + share0 * point_y
                        sums[16 + i] += grad_depth * c0 - g0 * e0 / z0
                        sums[24 + i] += g0 * (y - y2) + g2 * (y0 - y) + share1 * point_x
                        sums[32 + i] += g0 * (x2 - x) + g2 * (x - x0) + share1 * point_y
                        sums[40 + i] += grad_depth * c1 - g1 * e1 / z1
                        sums[48 + i] += g0 * (y1 - y) + g1 * (y - y0) + share2 * point_x
                        sums[56 + i] += g0 * (x - x1) + g1 * (x0 - x) + share2 * point_y
                        sums[64 + i] += grad_depth * c2 - g2 * e2 / z2
                if touched:
                    for k in range(9):
                        for i in range(TILE):
                            verts_sum[f, k] += sums[k * TILE + i]
                    for k in range(3 * n_channels):
                        for i in range(TILE):
                            attributes_sum[f, k] += sums[(9 + k) * TILE + i]


@njit(**KERNEL)
def add_corners(face_corners, faces, n_images, verts_sum):
    """Adds (images * faces, 3 * C) values of the corners of faces to (images, verts, C) sums, all images in turn."""
    n_faces, n_channels = faces.shape[0], verts_sum.shape[2]
    for n in range(n_images):
        for f in range(n_faces):
            for corner in range(3):
                for c in range(n_channels):
                    verts_sum[n, faces[f, corner], c] += face_corners[n * n_faces + f, corner * n_channels + c]
