"""The soft renderer's backward pass: gradients of the blended picture to the vertices and attributes of the faces.

Each hit is recomputed, a face's gradients are summed in registers over a tile, and scattered once per face and tile.
With E = exp(-(z - z_min) / gamma) / (sum of weights + delta), O the pixel's colour and g the incoming gradients:

    dL/dp = E (g . (a - O) - g_share share)         dL/dz = -p dL/dp / gamma           dL/da = g p E
    dL/dd = (dL/dp + g_alpha product of the other (1 - p)) dp/dd
"""

from __future__ import annotations

import numpy as np
from numba import njit

from raylib.parallel import KERNEL
from raylib.render.binning import TILE
from raylib.render.soft_kernels import (
    BARY0,
    BARY1,
    BARY2,
    CLEAR,
    DEPTH,
    FAR,
    NEAREST,
    PROB,
    SCALE,
    SOFT_KERNEL,
    TOTAL,
    WEIGHT,
    X,
    fast_exp,
    row_coverage,
    row_is_hidden,
)

_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_MIN_CLEAR = np.float32(1e-7)
_MIN_EDGE_SQUARED = np.float32(1e-20)

# Offsets of a row's quantities beyond those of the forward pass; nine gradients of the corners, then those of the
# attributes, then colours and their incoming gradients.
_SHARE, _G_ALPHA, _DOT, _G0, _G1, _G2, _OUT = 88, 96, 104, 112, 120, 128, 136
_N_VERTS = 9


@njit(**SOFT_KERNEL)
def _hit_weights(row, inv_gamma, lanes):
    """Weights of a face's hits in the finished picture; clears the sums over channels."""
    for i in range(lanes):
        behind = (row[NEAREST + i] - row[DEPTH + i]) * inv_gamma
        share = fast_exp(behind if behind < _ZERO else _ZERO) * row[TOTAL + i]
        share = share if row[DEPTH + i] < FAR else _ZERO
        row[SCALE + i] = share
        row[WEIGHT + i] = share * row[PROB + i]
        row[_DOT + i] = -row[_SHARE + i]
        row[_G0 + i] = _ZERO
        row[_G1 + i] = _ZERO
        row[_G2 + i] = _ZERO


@njit(**SOFT_KERNEL)
def _channel_gradient(row, color, grad_color, out0, out1, out2, a0, a1, a2, lanes):
    """One attribute's gradients to the face's corners, its weights and its barycentric coordinates."""
    for i in range(lanes):
        k = np.uint64(i)  # unsigned: an index that might be negative does not vectorise
        g = row[grad_color + k]
        value = row[BARY0 + i] * a0 + row[BARY1 + i] * a1 + row[BARY2 + i] * a2
        h = g * row[WEIGHT + i]
        row[_DOT + i] += g * (value - row[color + k])
        row[_G0 + i] += h * a0
        row[_G1 + i] += h * a1
        row[_G2 + i] += h * a2
        row[out0 + k] = h * row[BARY0 + i]
        row[out1 + k] = h * row[BARY1 + i]
        row[out2 + k] = h * row[BARY2 + i]


@njit(**SOFT_KERNEL)
def _vertex_gradient(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, y, inv_sigma, inv_gamma, one_sided):
    """Gradients of a face's hits to the coordinates of its corners."""
    ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
    sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
    inv_z0, inv_z1, inv_z2 = _ONE / z0, _ONE / z1, _ONE / z2
    s0, s1, s2 = sign * inv_z0, sign * inv_z1, sign * inv_z2
    inv_a = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
    inv_b = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
    inv_c = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
    for i in range(TILE):
        x = row[X + i]
        e0 = (x - x1) * cy - (y - y1) * cx
        e1 = (y - y2) * bx - (x - x2) * by
        e2 = (x - x0) * ay - (y - y0) * ax
        t0, t1, t2 = e0 * s0, e1 * s1, e2 * s2
        in0, in1, in2 = t0 > _ZERO, t1 > _ZERO, t2 > _ZERO
        inside = in0 & in1 & in2
        scale = _ONE / ((t0 if in0 else _ZERO) + (t1 if in1 else _ZERO) + (t2 if in2 else _ZERO))
        prob = row[PROB + i]
        hit = prob > _ZERO
        grad_prob = row[SCALE + i] * row[_DOT + i]
        grad_depth = -prob * grad_prob * inv_gamma
        # d alpha / d p is the product of the others' (1 - p); two-sided, it cancels against dp/dd.
        if one_sided:
            clearance = _ONE - prob
            others = row[CLEAR + i] / (clearance if clearance > _MIN_CLEAR else _MIN_CLEAR)
            slope = _ZERO if inside else prob * (_ONE - _HALF * prob)
            grad_dist = -slope * inv_sigma * (others * row[_G_ALPHA + i] + grad_prob)
        else:
            grad_dist = -prob * inv_sigma * (row[CLEAR + i] * row[_G_ALPHA + i] + (_ONE - prob) * grad_prob)

        # Coordinates: divided by depth, clipped at zero, normalised.
        c0, c1, c2 = row[BARY0 + i], row[BARY1 + i], row[BARY2 + i]
        g0 = row[_G0 + i] + grad_depth * z0
        g1 = row[_G1 + i] + grad_depth * z1
        g2 = row[_G2 + i] + grad_depth * z2
        mean = g0 * c0 + g1 * c1 + g2 * c2
        g0 = (g0 - mean) * scale * s0 if in0 & hit else _ZERO
        g1 = (g1 - mean) * scale * s1 if in1 & hit else _ZERO
        g2 = (g2 - mean) * scale * s2 if in2 & hit else _ZERO

        # Distance: the nearest point of the nearest edge.
        t_a = (ax * (x - x0) + ay * (y - y0)) * inv_a
        t_b = (bx * (x - x0) + by * (y - y0)) * inv_b
        t_c = (cx * (x - x1) + cy * (y - y1)) * inv_c
        t_a = t_a if t_a > _ZERO else _ZERO
        t_b = t_b if t_b > _ZERO else _ZERO
        t_c = t_c if t_c > _ZERO else _ZERO
        t_a = t_a if t_a < _ONE else _ONE
        t_b = t_b if t_b < _ONE else _ONE
        t_c = t_c if t_c < _ONE else _ONE
        dax, day = x0 + t_a * ax - x, y0 + t_a * ay - y
        dbx, dby = x0 + t_b * bx - x, y0 + t_b * by - y
        dcx, dcy = x1 + t_c * cx - x, y1 + t_c * cy - y
        dist_a, dist_b, dist_c = dax * dax + day * day, dbx * dbx + dby * dby, dcx * dcx + dcy * dcy
        use_a = (dist_a <= dist_b) & (dist_a <= dist_c)
        use_b = dist_b <= dist_c  # where a is not the nearest
        pull = (-_TWO if inside else _TWO) * grad_dist
        pull = pull if hit else _ZERO
        point_x = pull * (dax if use_a else (dbx if use_b else dcx))
        point_y = pull * (day if use_a else (dby if use_b else dcy))
        share0 = _ONE - t_a if use_a else (_ONE - t_b if use_b else _ZERO)
        share1 = t_a if use_a else (_ZERO if use_b else _ONE - t_c)
        share2 = _ZERO if use_a else (t_b if use_b else t_c)

        row[_OUT + i] = g1 * (y2 - y) + g2 * (y - y1) + share0 * point_x
        row[_OUT + 8 + i] = g1 * (x - x2) + g2 * (x1 - x) + share0 * point_y
        row[_OUT + 16 + i] = grad_depth * c0 - g0 * e0 * inv_z0
        row[_OUT + 24 + i] = g0 * (y - y2) + g2 * (y0 - y) + share1 * point_x
        row[_OUT + 32 + i] = g0 * (x2 - x) + g2 * (x - x0) + share1 * point_y
        row[_OUT + 40 + i] = grad_depth * c1 - g1 * e1 * inv_z1
        row[_OUT + 48 + i] = g0 * (y1 - y) + g1 * (y - y0) + share2 * point_x
        row[_OUT + 56 + i] = g0 * (x - x1) + g1 * (x0 - x) + share2 * point_y
        row[_OUT + 64 + i] = grad_depth * c2 - g2 * e2 * inv_z2


@njit(**SOFT_KERNEL)
def _load_row(row, n, y, left, width, n_channels, color, grad_color, out, aux, grad_out):
    """Loads the finished picture and its incoming gradients; tells whether any gradient is not zero."""
    any_gradient = False
    for i in range(TILE):
        x = min(left + i, width - 1)
        within = _ONE if left + i < width else _ZERO
        row[NEAREST + i] = aux[n, y, x, 0]
        row[TOTAL + i] = aux[n, y, x, 1]
        row[CLEAR + i] = aux[n, y, x, 2]
        share, alpha = grad_out[n, y, x, n_channels] * within, grad_out[n, y, x, n_channels + 1] * within
        row[_SHARE + i] = share * out[n, y, x, n_channels]
        row[_G_ALPHA + i] = alpha
        any_gradient |= (share != _ZERO) | (alpha != _ZERO)
        for c in range(n_channels):
            g = grad_out[n, y, x, c] * within
            row[color + c * TILE + i] = out[n, y, x, c]
            row[grad_color + c * TILE + i] = g
            any_gradient |= g != _ZERO
    return any_gradient


@njit(**SOFT_KERNEL)
def _lane_sum(sums, at):
    """The sum of eight lanes, in pairs: adding one after the other to memory waits for each store."""
    low = (sums[at] + sums[at + 1]) + (sums[at + 2] + sums[at + 3])
    return low + ((sums[at + 4] + sums[at + 5]) + (sums[at + 6] + sums[at + 7]))


@njit(**SOFT_KERNEL)
def soft_backward(part, parts, face_verts, attributes, boxes, face_lists, offsets, columns, rows, blur_radius, sigma,
                  gamma, one_sided, n_images, tile_columns, tile_rows, by_image, out, aux, grad_out, grad_verts,
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
        one_sided: whether coverage is one inside a face.
        n_images: number of images.
        tile_columns: tiles from left to right.
        tile_rows: tiles from top to bottom.
        by_image: whether parts are images, which share no faces, or rows of tiles, which do.
        out: (images, height, width, C + 2) of the forward pass.
        aux: (images, height, width, 3) of the forward pass.
        grad_out: gradients of `out`.
        grad_verts: (1 if by_image else parts, faces, 9) sums, zero at first.
        grad_attributes: (1 if by_image else parts, faces, 3 * C) sums, zero at first.
    """
    height, width = rows.shape[0], columns.shape[0]
    n_channels = attributes.shape[1] // 3
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    lanes = boxes.shape[1] * 2  # eight, unknown to the compiler: it would unroll short loops and not vectorise them
    n_sums = (_N_VERTS + 3 * n_channels) * TILE
    out_attributes = _OUT + _N_VERTS * TILE
    color = _OUT + n_sums
    grad_color = color + n_channels * TILE
    work = np.zeros((TILE, grad_color + n_channels * TILE), np.float32)
    sums = np.zeros(n_sums, np.float32)
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
            for y in range(top, bottom + 1):
                row = work[y - top]
                any_gradient |= _load_row(row, n, y, left, width, n_channels, color, grad_color, out, aux, grad_out)
                for i in range(TILE):
                    row[X + i] = columns[min(left + i, width - 1)]
            if not any_gradient:
                continue
            for q in range(offsets[tile], offsets[tile + 1]):
                f = np.int64(face_lists[q])
                x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
                x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
                x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
                first = max(np.int64(boxes[f, 0]), left) - left
                last = min(np.int64(boxes[f, 1]), right) - left
                face_depth = min(z0, min(z1, z2))
                touched = False
                for y in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
                    row = work[y - top]
                    if row_is_hidden(row, first, last, face_depth, inv_gamma):
                        continue
                    if not row_coverage(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, rows[y], first, last, blur_radius,
                                        inv_sigma, one_sided):  # fmt: skip
                        continue
                    _hit_weights(row, inv_gamma, lanes)
                    for c in range(n_channels):
                        out0 = out_attributes + c * TILE
                        _channel_gradient(
                            row, np.uint64(color + c * TILE), np.uint64(grad_color + c * TILE), np.uint64(out0),
                            np.uint64(out0 + n_channels * TILE), np.uint64(out0 + 2 * n_channels * TILE),
                            attributes[f, c], attributes[f, n_channels + c], attributes[f, 2 * n_channels + c], lanes,
                        )  # fmt: skip
                    _vertex_gradient(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, rows[y], inv_sigma, inv_gamma,
                                     one_sided)  # fmt: skip
                    if touched:
                        for k in range(n_sums):
                            sums[k] += row[_OUT + k]
                    else:
                        for k in range(n_sums):
                            sums[k] = row[_OUT + k]
                        touched = True
                if touched:
                    for k in range(_N_VERTS):
                        verts_sum[f, k] += _lane_sum(sums, k * TILE)
                    for k in range(3 * n_channels):
                        attributes_sum[f, k] += _lane_sum(sums, (_N_VERTS + k) * TILE)


@njit(**KERNEL)
def add_corners(face_corners, faces, n_images, verts_sum):
    """Adds (images * faces, 3 * C) values of the corners of faces to (images, verts, C) sums, all images in turn."""
    n_faces, n_channels = faces.shape[0], verts_sum.shape[2]
    for n in range(n_images):
        for f in range(n_faces):
            for corner in range(3):
                for c in range(n_channels):
                    verts_sum[n, faces[f, corner], c] += face_corners[n * n_faces + f, corner * n_channels + c]
