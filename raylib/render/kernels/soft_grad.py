"""The soft renderer's backward pass: gradients of the blended picture to the vertices and their attributes.

Each hit is recomputed and a face's gradients are summed over its whole box before they are scattered, once a face.
With E = exp(-(z - z_min) / gamma) / (sum of weights + delta), O the pixel's colour and g the incoming gradients:

    dL/dp = E (g . (a - O) - g_share share)         dL/dz = -p dL/dp / gamma           dL/da = g p E
    dL/dd = (dL/dp + g_alpha product of the other (1 - p)) dp/dd

What does not depend on the face is prepared once a pixel: g . O + g_share share, and g_alpha times the product of all
(1 - p). As a = sum of b_k a_k over the corners, g . a_k serves a, the coordinates b_k and the depth alike.

The edge functions are linear in the pixel, so that their gradients to the corners follow, once a face, from three
sums each: of the gradient D, of D x and of D y.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from raylib.kernels.threads import KERNEL
from raylib.render.kernels.soft import (
    CLEAR_PLANE,
    FAR,
    LANES,
    N_PLANES,
    NEAREST_PLANE,
    NEGLIGIBLE_EXPONENT,
    SOFT_KERNEL,
    TOTAL_PLANE,
    add_products,
    add_scaled,
    background_weight,
    copy_lanes,
    coverage,
    fast_exp,
    load_corners,
    load_face,
    runs_beyond,
    start_run,
)

_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_MIN_CLEAR = np.float32(1e-7)
_OPAQUE = np.float32(1e-7)  # product of (1 - p) below which a face far behind does not change alpha

# Lines of a row of pixels in the planes of the gradients; the gradients of the attributes follow.
_BEYOND_PLANE, _MEAN_PLANE, _ALPHA_PLANE, N_GRAD_PLANES = 0, 1, 2, 3

# Offsets of a run's quantities: of the pixels, of the hits.
_NEAREST, _TOTAL, _MEAN, _ALPHA, _BEYOND = 0, 8, 16, 24, 32
_PROB, _FADE, _WEIGHT, _BARY0, _BARY1, _BARY2, _WEIGHT0, _WEIGHT1, _WEIGHT2 = 40, 48, 56, 64, 72, 80, 88, 96, 104
_SCALE, _T0, _T1, _T2, _G0, _G1, _G2 = 112, 120, 128, 136, 144, 152, 160
_AWAY_X, _AWAY_Y, _SHARE1, _SHARE2, _SIDE = 168, 176, 184, 192, 200
_SUMS = 208  # what a face gathers: 18 sums for the vertices, then three an attribute
_N_VERT_SUMS = 18


@njit(**SOFT_KERNEL)
def _to_segment(qx, qy, dx, dy, t):
    """From the nearest point of the segment to the point, squared length and share along the segment."""
    t = t if t > _ZERO else _ZERO
    t = t if t < _ONE else _ONE
    x, y = qx - t * dx, qy - t * dy
    return x, y, x * x + y * y, t


@njit(**SOFT_KERNEL)
def _run_hits(run, face, starts, steps, qx, qy, last, reach2, inv_sigma, inv_gamma, one_sided):
    """Weights of a face in the finished picture, and what their derivatives need; tells whether there is any hit."""
    ax, ay, bx, by, cx, cy, _, _, _, _, _, _, z0, z1, z2 = face
    any_hit = False
    for i in range(LANES):
        step = np.float32(i)
        x = qx + step
        t0, t1, t2 = starts[0] + step * steps[0], starts[1] + step * steps[1], starts[2] + step * steps[2]
        inside = (t0 > _ZERO) & (t1 > _ZERO) & (t2 > _ZERO)
        t0 = t0 if t0 > _ZERO else _ZERO
        t1 = t1 if t1 > _ZERO else _ZERO
        t2 = t2 if t2 > _ZERO else _ZERO
        scale = _ONE / (t0 + t1 + t2)
        c0, c1, c2 = t0 * scale, t1 * scale, t2 * scale
        a_x, a_y, dist_a, t_a = _to_segment(x, qy, ax, ay, starts[3] + step * steps[3])
        b_x, b_y, dist_b, t_b = _to_segment(x, qy, bx, by, starts[4] + step * steps[4])
        c_x, c_y, dist_c, t_c = _to_segment(x - ax, qy - ay, cx, cy, starts[5] + step * steps[5])
        use_a = (dist_a <= dist_b) & (dist_a <= dist_c)
        use_b = dist_b <= dist_c  # where a is not the nearest
        dist = dist_a if use_a else (dist_b if use_b else dist_c)
        hit = (i <= last) & (inside | (dist < reach2))
        any_hit |= hit
        prob = coverage(dist, inside, inv_sigma, one_sided)
        behind = (run[_NEAREST + i] - (c0 * z0 + c1 * z1 + c2 * z2)) * inv_gamma
        fade = fast_exp(behind if behind < _ZERO else _ZERO) * run[_TOTAL + i]
        weight = fade * prob
        run[_PROB + i] = prob if hit else _ZERO
        run[_FADE + i] = fade if hit else _ZERO
        run[_WEIGHT + i] = weight if hit else _ZERO
        run[_BARY0 + i] = c0 if hit else _ZERO
        run[_BARY1 + i] = c1 if hit else _ZERO
        run[_BARY2 + i] = c2 if hit else _ZERO
        run[_WEIGHT0 + i] = weight * c0 if hit else _ZERO
        run[_WEIGHT1 + i] = weight * c1 if hit else _ZERO
        run[_WEIGHT2 + i] = weight * c2 if hit else _ZERO
        run[_SCALE + i] = scale if hit else _ZERO
        run[_T0 + i], run[_T1 + i], run[_T2 + i] = t0, t1, t2
        run[_G0 + i], run[_G1 + i], run[_G2 + i] = _ZERO, _ZERO, _ZERO
        run[_AWAY_X + i] = a_x if use_a else (b_x if use_b else c_x)
        run[_AWAY_Y + i] = a_y if use_a else (b_y if use_b else c_y)
        run[_SHARE1 + i] = t_a if use_a else (_ZERO if use_b else _ONE - t_c)
        run[_SHARE2 + i] = _ZERO if use_a else (t_b if use_b else t_c)
        run[_SIDE + i] = _TWO if inside else -_TWO
    return any_hit


@njit(**SOFT_KERNEL)
def _add_vertex_gradient(run, face, qx, qy, inv_sigma, inv_gamma, one_sided):
    """The gradients of a run's hits to coordinates and distance, into a face's sums for its vertices."""
    z0, z1, z2 = face[12], face[13], face[14]
    for i in range(LANES):
        prob, weight = run[_PROB + i], run[_WEIGHT + i]
        c0, c1, c2 = run[_BARY0 + i], run[_BARY1 + i], run[_BARY2 + i]
        g0, g1, g2 = run[_G0 + i], run[_G1 + i], run[_G2 + i]
        dot = c0 * g0 + c1 * g1 + c2 * g2 - run[_MEAN + i]
        grad_prob = run[_FADE + i] * dot
        grad_depth = -weight * dot * inv_gamma
        # d alpha / d p is the product of the others' (1 - p); two-sided, it cancels against dp/dd.
        if one_sided:
            clearance = _ONE - prob
            others = run[_ALPHA + i] / (clearance if clearance > _MIN_CLEAR else _MIN_CLEAR)
            slope = _ZERO if run[_SIDE + i] > _ZERO else prob * (_ONE - _HALF * prob)
            grad_dist = slope * inv_sigma * (others + grad_prob)
        else:
            grad_dist = prob * inv_sigma * (run[_ALPHA + i] + (_ONE - prob) * grad_prob)

        # Coordinates: divided by depth, clipped at zero, normalised.
        g0 = weight * g0 + grad_depth * z0
        g1 = weight * g1 + grad_depth * z1
        g2 = weight * g2 + grad_depth * z2
        mean = g0 * c0 + g1 * c1 + g2 * c2
        d0 = (g0 - mean) * run[_SCALE + i] if run[_T0 + i] > _ZERO else _ZERO
        d1 = (g1 - mean) * run[_SCALE + i] if run[_T1 + i] > _ZERO else _ZERO
        d2 = (g2 - mean) * run[_SCALE + i] if run[_T2 + i] > _ZERO else _ZERO
        x = qx + np.float32(i)
        run[_SUMS + i] += d0
        run[_SUMS + 8 + i] += d1
        run[_SUMS + 16 + i] += d2
        run[_SUMS + 24 + i] += d0 * x
        run[_SUMS + 32 + i] += d1 * x
        run[_SUMS + 40 + i] += d2 * x
        run[_SUMS + 48 + i] += d0 * qy
        run[_SUMS + 56 + i] += d1 * qy
        run[_SUMS + 64 + i] += d2 * qy
        run[_SUMS + 72 + i] += grad_depth * c0
        run[_SUMS + 80 + i] += grad_depth * c1
        run[_SUMS + 88 + i] += grad_depth * c2

        # Distance: the nearest point of the nearest edge; its share of the third corner is what the others leave.
        pull = run[_SIDE + i] * grad_dist
        pull_x, pull_y = -pull * run[_AWAY_X + i], -pull * run[_AWAY_Y + i]
        run[_SUMS + 96 + i] += pull_x
        run[_SUMS + 104 + i] += pull_y
        run[_SUMS + 112 + i] += pull_x * run[_SHARE1 + i]
        run[_SUMS + 120 + i] += pull_y * run[_SHARE1 + i]
        run[_SUMS + 128 + i] += pull_x * run[_SHARE2 + i]
        run[_SUMS + 136 + i] += pull_y * run[_SHARE2 + i]


@njit(**{**KERNEL, "fastmath": {"contract", "reassoc"}})
def _lane_sum(run, at):
    """The sum of eight lanes, in any order."""
    total = _ZERO
    for i in range(LANES):
        total += run[at + np.uint64(i)]
    return total


@njit(**SOFT_KERNEL)
def _scatter_vertices(totals, face, i, j, k, part, n, grad_verts):
    """Adds a face's sums to the gradients of its three vertices."""
    ax, ay, bx, by, cx, cy = face[0], face[1], face[2], face[3], face[4], face[5]
    s0, s1, s2 = face[9], face[10], face[11]
    m0, m1, m2 = totals[0] * s0, totals[1] * s1, totals[2] * s2
    x0, x1, x2 = totals[3] * s0, totals[4] * s1, totals[5] * s2
    y0, y1, y2 = totals[6] * s0, totals[7] * s1, totals[8] * s2
    share0_x = totals[12] - totals[14] - totals[16]
    share0_y = totals[13] - totals[15] - totals[17]
    grad_verts[part, n, i, 0] += by * m1 - y1 + y2 - ay * m2 + share0_x
    grad_verts[part, n, i, 1] += x1 - bx * m1 + ax * m2 - x2 + share0_y
    grad_verts[part, n, i, 2] += totals[9] - ((x0 - ax * m0) * cy - (y0 - ay * m0) * cx) / face[12]
    grad_verts[part, n, j, 0] += y0 - by * m0 - y2 + totals[14]
    grad_verts[part, n, j, 1] += bx * m0 - x0 + x2 + totals[15]
    grad_verts[part, n, j, 2] += totals[10] - (y1 * bx - x1 * by) / face[13]
    grad_verts[part, n, k, 0] += ay * m0 - y0 + y1 + totals[16]
    grad_verts[part, n, k, 1] += x0 - ax * m0 - x1 + totals[17]
    grad_verts[part, n, k, 2] += totals[11] - (x2 * ay - y2 * ax) / face[14]


@njit(**SOFT_KERNEL)
def _prepare_gradients(low, high, gamma, z_far, planes, grad_color, grad_share, grad_alpha, grad_planes):
    """Writes, in the rows from `low` to `high`, what the gradients need once a pixel (see `soft_backward`)."""
    inv_gamma = _ONE / gamma
    n_channels = planes.shape[1] - N_PLANES
    width = max(grad_color.shape[1], max(grad_share.shape[1], grad_alpha.shape[1]))
    for y in range(low, high):
        grad_planes[y] = _ZERO
        grad_planes[y, _BEYOND_PLANE] = -FAR
        for x in range(width):
            nearest, inv_total = planes[y, NEAREST_PLANE, x], planes[y, TOTAL_PLANE, x]
            clear = planes[y, CLEAR_PLANE, x]
            alpha = grad_alpha[y, x] if grad_alpha.shape[0] > 0 else _ZERO
            mean = _ZERO
            any_gradient = alpha != _ZERO
            if grad_color.shape[0] > 0:
                for c in range(n_channels):
                    g = grad_color[y, x, c]
                    any_gradient |= g != _ZERO
                    mean += g * planes[y, N_PLANES + c, x] * inv_total
                    grad_planes[y, N_GRAD_PLANES + c, x] = g
            if grad_share.shape[0] > 0:
                any_gradient |= grad_share[y, x] != _ZERO
                mean += grad_share[y, x] * background_weight(nearest, z_far, inv_gamma) * inv_total
            grad_planes[y, _MEAN_PLANE, x] = mean
            grad_planes[y, _ALPHA_PLANE, x] = alpha * clear
            if any_gradient:
                only_weight = (alpha == _ZERO) | (clear < _OPAQUE)
                grad_planes[y, _BEYOND_PLANE, x] = nearest + NEGLIGIBLE_EXPONENT * gamma if only_weight else FAR


@njit(**SOFT_KERNEL)
def soft_backward(part, parts, verts, values, face_uv, faces, boxes, bands, height, reach2, sigma, gamma, one_sided,
                  z_far, planes, grad_color, grad_share, grad_alpha, grad_planes, grad_verts,
                  grad_values):  # fmt: skip
    """Adds the gradients of the picture in the rows of pixels of a part to those of the vertices and attributes.

    Args:
        part: this part.
        parts: number of parts.
        verts: as in `soft_forward`, likewise the following.
        values: (images, verts, C).
        face_uv: (faces, 3, U).
        faces: (faces, 3).
        boxes: (images * faces, 4).
        bands: (parts + 1) first row of each part, counted through all images.
        height: of an image.
        reach2: squared reach in pixels.
        sigma: width of the coverage.
        gamma: depth over which weights fall by e.
        one_sided: whether coverage is one inside a face.
        z_far: depth of the background.
        planes: of the forward pass.
        grad_color: (rows, width, C + U) gradients, or of no size if there are none.
        grad_share: (rows, width) gradients, or of no size.
        grad_alpha: (rows, width) gradients, or of no size.
        grad_planes: (rows, 3 + C + U, padded width) memory for what a pixel's gradients need: depth beyond which no
            face changes anything, g . O + g_share share, g_alpha times the product of (1 - p), g.
        grad_verts: (parts, images, verts, 3) sums, zero at first.
        grad_values: (parts, images, verts, C) sums, zero at first.
    """
    n_faces, n_values = faces.shape[0], values.shape[2]
    n_channels = n_values + face_uv.shape[2]
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    line = planes.shape[2]
    stride, grad_stride = planes.shape[1] * line, grad_planes.shape[1] * line
    flat, grad_flat = planes.reshape(-1), grad_planes.reshape(-1)
    n_sums = _N_VERT_SUMS + 3 * n_channels
    run = np.zeros(_SUMS + n_sums * LANES, np.float32)
    totals = np.zeros(n_sums, np.float32)
    corners = np.zeros(3 * n_channels, np.float32)
    low, high = bands[part], bands[part + 1]
    _prepare_gradients(low, high, gamma, z_far, planes, grad_color, grad_share, grad_alpha, grad_planes)
    for n in range(low // height, (high + height - 1) // height):
        for f in range(n_faces):
            box = n * n_faces + f
            left, right = np.int64(boxes[box, 0]), np.int64(boxes[box, 1])
            top, bottom = max(np.int64(boxes[box, 2]), low), min(np.int64(boxes[box, 3]), high - 1)
            if right < left or bottom < top:
                continue
            x0, y0, depth, face = load_face(verts, faces, n, f)
            touched = False
            for y in range(top, bottom + 1):
                qy = np.float32(y - n * height) + _HALF - y0
                for x in range(left, right + 1, LANES):
                    qx = np.float32(x) + _HALF - x0
                    at, grad_at = y * stride + x, y * grad_stride + x
                    copy_lanes(run, _BEYOND, grad_flat, grad_at + _BEYOND_PLANE * line)
                    if not runs_beyond(run, _BEYOND, depth):
                        continue
                    copy_lanes(run, _NEAREST, flat, at + NEAREST_PLANE * line)
                    copy_lanes(run, _TOTAL, flat, at + TOTAL_PLANE * line)
                    starts, steps = start_run(face, qx, qy)
                    if not _run_hits(run, face, starts, steps, qx, qy, right - x, reach2, inv_sigma, inv_gamma,
                                     one_sided):  # fmt: skip
                        continue
                    if not touched:
                        load_corners(values, face_uv, faces, n, f, corners)
                        for c in range(_SUMS, run.shape[0]):
                            run[c] = _ZERO
                        touched = True
                    copy_lanes(run, _MEAN, grad_flat, grad_at + _MEAN_PLANE * line)
                    copy_lanes(run, _ALPHA, grad_flat, grad_at + _ALPHA_PLANE * line)
                    for c in range(n_channels):
                        g = grad_at + (N_GRAD_PLANES + c) * line
                        out = _SUMS + (_N_VERT_SUMS + 3 * c) * LANES
                        for corner in range(3):
                            lane = corner * LANES
                            add_scaled(run, _G0 + lane, grad_flat, g, corners[3 * c + corner])
                            add_products(run, out + lane, run, _WEIGHT0 + lane, grad_flat, g)
                    _add_vertex_gradient(run, face, qx, qy, inv_sigma, inv_gamma, one_sided)
            if not touched:
                continue
            for k in range(_N_VERT_SUMS + 3 * n_values):
                totals[k] = _lane_sum(run, np.uint64(_SUMS + k * LANES))
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            _scatter_vertices(totals, face, i, j, k, part, n, grad_verts)
            for c in range(n_values):
                at = _N_VERT_SUMS + 3 * c
                grad_values[part, n, i, c] += totals[at]
                grad_values[part, n, j, c] += totals[at + 1]
                grad_values[part, n, k, c] += totals[at + 2]
