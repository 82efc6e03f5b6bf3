"""The fused soft renderer: rasterise, interpolate and blend in one go, without lists of faces. Forward pass.

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

Faces are walked twice in the order of the mesh, which is kind to the cache and needs no sorting: first for z_min and
alpha, then for the sums. The second walk leaves out what lies so far behind z_min that its weight rounds away.

Barycentric coordinates are those of the nearest point of the projected triangle after perspective correction: with
edge functions e_i they are max(s e_i / z_i, 0), normalised, where s is the sign of the area; area and its rounding
drop out. All positions are relative to a face's first vertex, so that rounding does not grow with the picture.

What lasts is kept in planes: for each row of pixels one line of floats a quantity. A face's box is worked on in runs
of eight pixels of one row, copied into a flat array of eight floats a quantity and back: loops over one array at
constant offsets are what the compiler turns into vector instructions, which is why each is a small function of it.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from raylib.parallel import KERNEL

SOFT_KERNEL = {**KERNEL, "fastmath": {"contract"}}
"""Nothing here promises equal bits, so that multiplications and additions may fuse."""

LANES = 8
"""Pixels of a run: the floats of one vector register."""

MIN_BACKGROUND = 1e-10
"""Lowest weight of the background beside the faces' weights (delta above)."""

NEGLIGIBLE_EXPONENT = np.float32(16.0)
"""A face this many gammas behind z_min has a weight below 1e-7, the rounding of a float: it is left out."""

FAR = np.float32(1e30)
"""Depth of a pixel that the face does not reach."""

N_FACE = 16
"""Size of the array of a face's constants."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_MIN_EDGE_SQUARED = np.float32(1e-20)
_MIN_AREA = np.float32(1e-8)
_MIN_DEPTH = np.float32(1e-8)
_TINY = np.float32(1e-30)

# Lines of a row of pixels in the planes; the sums of the attributes follow.
NEAREST_PLANE, TOTAL_PLANE, CLEAR_PLANE, N_PLANES = 0, 1, 2, 3

# Offsets of a run's quantities; those of the backward pass follow.
BARY0, BARY1, BARY2, DEPTH, PROB, NEAREST, _CLEAR, WEIGHT, _SUM = 0, 8, 16, 24, 32, 40, 48, 56, 64
_RUN_SIZE = 72


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float whose bits are this integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def copy_lanes(typing_context, target, target_at, source, source_at):
    """Copies eight floats between flat arrays in one move: a loop would have to fear that the arrays overlap."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.FloatType(), LANES)

        def pointer(array, index):
            array_type = signature.args[array]
            data = context.make_array(array_type)(context, builder, arguments[array]).data
            return builder.bitcast(builder.gep(data, [arguments[index]]), vector.as_pointer())

        builder.store(builder.load(pointer(2, 3), align=4), pointer(0, 1), align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


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
def face_boxes(part, parts, verts, faces, reach, height, width, boxes, bad_face):
    """Writes the box of pixels of each face within `reach`: first and last column, first and last row, counted
    through all images; last < first where it is invisible. `bad_face[part]` gets a face whose numbers are not usable.
    """
    n_faces = faces.shape[0]
    half = np.float32(0.5)
    for n in range(verts.shape[0]):
        for f in range(part * n_faces // parts, (part + 1) * n_faces // parts):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            x0, y0, z0 = verts[n, i, 0], verts[n, i, 1], verts[n, i, 2]
            x1, y1, z1 = verts[n, j, 0], verts[n, j, 1], verts[n, j, 2]
            x2, y2, z2 = verts[n, k, 0], verts[n, k, 1], verts[n, k, 2]
            at = n * n_faces + f
            boxes[at, 0], boxes[at, 1], boxes[at, 2], boxes[at, 3] = 0, -1, 0, -1
            depth = min(z0, min(z1, z2))
            total = x0 + y0 + z0 + x1 + y1 + z1 + x2 + y2 + z2
            if not math.isfinite(total):
                # Projecting a vertex of the camera's own plane gives infinities; such a face is culled anyway.
                has_nan = False
                for c in range(3):
                    has_nan |= math.isnan(verts[n, i, c]) | math.isnan(verts[n, j, c]) | math.isnan(verts[n, k, c])
                if has_nan or depth >= _MIN_DEPTH:
                    bad_face[part] = at
                continue
            area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
            if abs(area) <= _MIN_AREA or depth < _MIN_DEPTH:
                continue
            # Held within the picture as floats: an integer cannot hold every float.
            left = max(np.ceil(min(x0, min(x1, x2)) - reach - half), _ZERO)
            right = min(np.floor(max(x0, max(x1, x2)) + reach - half), np.float32(width - 1))
            top = max(np.ceil(min(y0, min(y1, y2)) - reach - half), _ZERO)
            bottom = min(np.floor(max(y0, max(y1, y2)) + reach - half), np.float32(height - 1))
            if left <= right and top <= bottom:
                boxes[at, 0], boxes[at, 1] = np.int32(left), np.int32(right)
                boxes[at, 2], boxes[at, 3] = n * height + np.int32(top), n * height + np.int32(bottom)


@njit(**SOFT_KERNEL)
def load_face(verts, values, face_uv, faces, n, f, face, corners):
    """A face's constants and the attributes of its corners, three numbers each; returns its first vertex and depth."""
    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
    x0, y0, z0 = verts[n, i, 0], verts[n, i, 1], verts[n, i, 2]
    ax, ay, z1 = verts[n, j, 0] - x0, verts[n, j, 1] - y0, verts[n, j, 2]
    bx, by, z2 = verts[n, k, 0] - x0, verts[n, k, 1] - y0, verts[n, k, 2]
    cx, cy = bx - ax, by - ay
    sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
    face[0], face[1], face[2], face[3], face[4], face[5] = ax, ay, bx, by, cx, cy
    face[6] = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
    face[7] = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
    face[8] = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
    face[9], face[10], face[11] = sign / z0, sign / z1, sign / z2
    face[12], face[13], face[14] = z0, z1, z2
    n_values = values.shape[2]
    for c in range(n_values):
        corners[3 * c], corners[3 * c + 1], corners[3 * c + 2] = values[n, i, c], values[n, j, c], values[n, k, c]
    for c in range(face_uv.shape[2]):
        for corner in range(3):
            corners[3 * (n_values + c) + corner] = face_uv[f, corner, c]
    return x0, y0, min(z0, min(z1, z2))


@njit(**SOFT_KERNEL)
def _squared_distance(qx, qy, dx, dy, t):
    """Squared distance of the point (qx, qy) to the segment from the origin to (dx, dy), t its share along it."""
    t = t if t > _ZERO else _ZERO
    t = t if t < _ONE else _ONE
    x, y = qx - t * dx, qy - t * dy
    return x * x + y * y


@njit(**SOFT_KERNEL)
def _run_coverage(run, face, qx, qy, last, reach2, inv_sigma, one_sided):
    """Coordinates, depth and coverage of the pixels up to `last` of a run that begins at (qx, qy) from the face's
    first vertex; coverage is zero and depth FAR where the face does not reach. Tells whether it reaches any.
    """
    ax, ay, bx, by, cx, cy = face[0], face[1], face[2], face[3], face[4], face[5]
    s0, s1, s2, z0, z1, z2 = face[9], face[10], face[11], face[12], face[13], face[14]
    qy_c = qy - ay
    # Along the run the edge functions and the shares along the edges grow evenly.
    step0, step1, step2 = cy * s0, -by * s1, ay * s2
    start0 = ((qx - ax) * cy - qy_c * cx) * s0
    start1 = (qy * bx - qx * by) * s1
    start2 = (qx * ay - qy * ax) * s2
    step_a, step_b, step_c = ax * face[6], bx * face[7], cx * face[8]
    start_a = (ax * qx + ay * qy) * face[6]
    start_b = (bx * qx + by * qy) * face[7]
    start_c = (cx * (qx - ax) + cy * qy_c) * face[8]
    any_hit = False
    for i in range(LANES):
        step = np.float32(i)
        x = qx + step
        t0 = start0 + step * step0
        t1 = start1 + step * step1
        t2 = start2 + step * step2
        inside = (t0 > _ZERO) & (t1 > _ZERO) & (t2 > _ZERO)
        t0 = t0 if t0 > _ZERO else _ZERO
        t1 = t1 if t1 > _ZERO else _ZERO
        t2 = t2 if t2 > _ZERO else _ZERO
        scale = _ONE / (t0 + t1 + t2)
        c0, c1, c2 = t0 * scale, t1 * scale, t2 * scale
        dist_a = _squared_distance(x, qy, ax, ay, start_a + step * step_a)
        dist_b = _squared_distance(x, qy, bx, by, start_b + step * step_b)
        dist_c = _squared_distance(x - ax, qy_c, cx, cy, start_c + step * step_c)
        dist = dist_a if dist_a < dist_b else dist_b
        dist = dist if dist < dist_c else dist_c
        hit = (i <= last) & (inside | (dist < reach2))
        any_hit |= hit
        prob = _ONE / (_ONE + fast_exp((-dist if inside else dist) * inv_sigma))
        if one_sided:
            prob = _ONE if inside else prob + prob
        run[PROB + i] = prob if hit else _ZERO
        run[DEPTH + i] = c0 * z0 + c1 * z1 + c2 * z2 if hit else FAR
        run[BARY0 + i] = c0 if hit else _ZERO
        run[BARY1 + i] = c1 if hit else _ZERO
        run[BARY2 + i] = c2 if hit else _ZERO
    return any_hit


@njit(**SOFT_KERNEL)
def _cover(run):
    """Takes a face's depths and coverage into those of the pixels."""
    for i in range(LANES):
        depth, before = run[DEPTH + i], run[NEAREST + i]
        run[NEAREST + i] = depth if depth < before else before
        product = run[_CLEAR + i] * (_ONE - run[PROB + i])
        run[_CLEAR + i] = product if product > _TINY else _ZERO


@njit(**SOFT_KERNEL)
def runs_beyond(run, at, depth):
    """Whether any of the depths in the run lies beyond this one."""
    any_beyond = False
    for i in range(LANES):
        any_beyond |= run[at + i] > depth
    return any_beyond


@njit(**SOFT_KERNEL)
def _weigh(run, inv_gamma):
    """A face's weights."""
    for i in range(LANES):
        behind = (run[NEAREST + i] - run[DEPTH + i]) * inv_gamma
        run[WEIGHT + i] = run[PROB + i] * fast_exp(behind if behind < _ZERO else _ZERO)


@njit(**SOFT_KERNEL)
def _add_weights(run):
    for i in range(LANES):
        run[_SUM + i] += run[WEIGHT + i]


@njit(**SOFT_KERNEL)
def _add_values(run, a0, a1, a2):
    """Adds a face's attribute, given at its corners, to the sums."""
    for i in range(LANES):
        run[_SUM + i] += run[WEIGHT + i] * (run[BARY0 + i] * a0 + run[BARY1 + i] * a1 + run[BARY2 + i] * a2)


@njit(**SOFT_KERNEL)
def background_weight(nearest, z_far, inv_gamma):
    """The background's weight beside those of the faces (delta above)."""
    weight = fast_exp((nearest - z_far) * inv_gamma)
    return weight if weight > np.float32(MIN_BACKGROUND) else np.float32(MIN_BACKGROUND)


@njit(**SOFT_KERNEL)
def soft_forward(part, parts, verts, values, face_uv, faces, boxes, bands, height, width, reach2, sigma, gamma,
                 one_sided, z_far, planes, color, share, alpha):  # fmt: skip
    """Writes the blended picture in the rows of pixels of a part.

    Args:
        part: this part.
        parts: number of parts.
        verts: (images, verts, 3) x, y in pixels and depth.
        values: (images, verts, C) attributes of the vertices.
        face_uv: (faces, 3, U) further attributes, of the corners of faces.
        faces: (faces, 3) vertices.
        boxes: (images * faces, 4) from `face_boxes`.
        bands: (parts + 1) first row of each part, counted through all images.
        height: of an image.
        width: of an image.
        reach2: squared distance in pixels up to which a face reaches beyond its edges.
        sigma: width of the coverage, squared pixels.
        gamma: depth over which weights fall by e.
        one_sided: whether coverage is one inside a face.
        z_far: depth of the background.
        planes: (images * height, 3 + C + U, padded width) what lasts, kept for the backward pass: z_min, the inverse
            of the sum of weights, the product in alpha, the sums of the attributes.
        color: (images * height, width, C + U) blended attributes.
        share: (images * height, width) share of the background.
        alpha: (images * height, width) coverage.
    """
    n_faces = faces.shape[0]
    n_channels = values.shape[2] + face_uv.shape[2]
    inv_sigma, inv_gamma = _ONE / sigma, _ONE / gamma
    behind = NEGLIGIBLE_EXPONENT * gamma
    low, high = bands[part], bands[part + 1]
    n_lines, line = planes.shape[1], planes.shape[2]
    flat = planes.reshape(-1)
    run = np.zeros(_RUN_SIZE, np.float32)
    face = np.zeros(N_FACE, np.float32)
    corners = np.zeros(3 * n_channels, np.float32)
    planes[low:high] = _ZERO
    planes[low:high, NEAREST_PLANE] = z_far
    planes[low:high, CLEAR_PLANE] = _ONE
    for walk in range(2):
        for n in range(low // height, (high + height - 1) // height):
            for f in range(n_faces):
                box = n * n_faces + f
                left, right = np.int64(boxes[box, 0]), np.int64(boxes[box, 1])
                top, bottom = max(np.int64(boxes[box, 2]), low), min(np.int64(boxes[box, 3]), high - 1)
                if right < left or bottom < top:
                    continue
                x0, y0, depth = load_face(verts, values, face_uv, faces, n, f, face, corners)
                for y in range(top, bottom + 1):
                    qy = np.float32(y - n * height) + np.float32(0.5) - y0
                    for x in range(left, right + 1, LANES):
                        qx = np.float32(x) + np.float32(0.5) - x0
                        at = y * n_lines * line + x
                        copy_lanes(run, NEAREST, flat, at + NEAREST_PLANE * line)
                        if walk == 0:
                            if _run_coverage(run, face, qx, qy, right - x, reach2, inv_sigma, one_sided):
                                copy_lanes(run, _CLEAR, flat, at + CLEAR_PLANE * line)
                                _cover(run)
                                copy_lanes(flat, at + NEAREST_PLANE * line, run, NEAREST)
                                copy_lanes(flat, at + CLEAR_PLANE * line, run, _CLEAR)
                            continue
                        if not runs_beyond(run, NEAREST, depth - behind):
                            continue
                        if not _run_coverage(run, face, qx, qy, right - x, reach2, inv_sigma, one_sided):
                            continue
                        _weigh(run, inv_gamma)
                        copy_lanes(run, _SUM, flat, at + TOTAL_PLANE * line)
                        _add_weights(run)
                        copy_lanes(flat, at + TOTAL_PLANE * line, run, _SUM)
                        for c in range(n_channels):
                            copy_lanes(run, _SUM, flat, at + (N_PLANES + c) * line)
                            _add_values(run, corners[3 * c], corners[3 * c + 1], corners[3 * c + 2])
                            copy_lanes(flat, at + (N_PLANES + c) * line, run, _SUM)
    for y in range(low, high):
        for x in range(width):
            background = background_weight(planes[y, NEAREST_PLANE, x], z_far, inv_gamma)
            inv_total = _ONE / (planes[y, TOTAL_PLANE, x] + background)
            planes[y, TOTAL_PLANE, x] = inv_total
            share[y, x] = background * inv_total
            alpha[y, x] = _ONE - planes[y, CLEAR_PLANE, x]
            for c in range(n_channels):
                color[y, x, c] = planes[y, N_PLANES + c, x] * inv_total
