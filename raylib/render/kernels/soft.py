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
from numba.extending import intrinsic

from raylib.kernels.threads import KERNEL

SOFT_KERNEL = {**KERNEL, "fastmath": {"contract"}}
"""Nothing here promises equal bits, so that multiplications and additions may fuse."""

INLINED = {**SOFT_KERNEL, "inline": "always"}
"""For what the compiler would call from within a loop, and so not vectorise the loop."""

LANES = 8
"""Pixels of a run: the floats of one vector register."""

MIN_BACKGROUND = 1e-10
"""Lowest weight of the background beside the faces' weights (delta above)."""

NEGLIGIBLE_EXPONENT = np.float32(16.0)
"""A face this many gammas behind z_min has a weight below 1e-7, the rounding of a float: it is left out."""

FAR = np.float32(1e30)
"""Depth of a pixel that the face does not reach."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_MIN_EDGE_SQUARED = np.float32(1e-20)
_MIN_AREA = np.float32(1e-8)
_MIN_DEPTH = np.float32(1e-8)
_TINY = np.float32(1e-30)

# Lines of a row of pixels in the planes; the sums of the attributes follow.
NEAREST_PLANE, TOTAL_PLANE, CLEAR_PLANE, N_PLANES = 0, 1, 2, 3

# Offsets of a run's quantities; those of the backward pass follow.
NEAREST, _CLEAR, _WEIGHT, _WEIGHT0, _WEIGHT1, _WEIGHT2 = 0, 8, 16, 24, 32, 40
_RUN_SIZE = 48


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float whose bits are this integer."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def _lanes(context, builder, signature, arguments, array):
    """Pointer to the eight floats of the flat array that is argument `array`, from the index that follows it."""
    data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
    vector = ir.VectorType(ir.FloatType(), LANES)
    return builder.bitcast(builder.gep(data, [arguments[array + 1]]), vector.as_pointer())


# One vector instruction each, where a loop over two arrays would have to fear that they overlap.
@intrinsic
def copy_lanes(typing_context, target, target_at, source, source_at):
    """Copies eight floats between flat arrays."""

    def generate(context, builder, signature, arguments):
        to, source = (_lanes(context, builder, signature, arguments, array) for array in (0, 2))
        builder.store(builder.load(source, align=4), to, align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


@intrinsic
def add_scaled(typing_context, target, target_at, source, source_at, factor):
    """Adds eight floats times a factor to eight others."""

    def generate(context, builder, signature, arguments):
        to, source = (_lanes(context, builder, signature, arguments, array) for array in (0, 2))
        factors = ir.Constant(ir.VectorType(ir.FloatType(), LANES), ir.Undefined)
        for lane in range(LANES):
            factors = builder.insert_element(factors, arguments[4], ir.Constant(ir.IntType(32), lane))
        scaled = builder.fmul(builder.load(source, align=4), factors, flags=("contract",))
        builder.store(builder.fadd(builder.load(to, align=4), scaled, flags=("contract",)), to, align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.float32), generate


@intrinsic
def add_products(typing_context, target, target_at, first, first_at, second, second_at):
    """Adds the products of eight floats and eight others to eight more."""

    def generate(context, builder, signature, arguments):
        to, first, second = (_lanes(context, builder, signature, arguments, array) for array in (0, 2, 4))
        product = builder.fmul(builder.load(first, align=4), builder.load(second, align=4), flags=("contract",))
        builder.store(builder.fadd(builder.load(to, align=4), product, flags=("contract",)), to, align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, first, types.intp, second, types.intp), generate


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


@njit(**KERNEL)
def even_bands(boxes, n_rows, parts):
    """Returns the first rows of bands in which boxes cover equally many pixels, and the number of rows."""
    growth = np.zeros(n_rows + 1, np.int64)
    for box in range(boxes.shape[0]):
        width = np.int64(boxes[box, 1]) - np.int64(boxes[box, 0]) + 1
        if width > 0:
            growth[boxes[box, 2]] += width
            growth[boxes[box, 3] + 1] -= width
    done = np.cumsum(np.cumsum(growth)[:n_rows])
    bands = np.empty(parts + 1, np.int64)
    bands[0], bands[parts] = 0, n_rows
    row = 0
    for part in range(1, parts):
        while row < n_rows and done[row] * parts < done[n_rows - 1] * part:
            row += 1
        bands[part] = row
    return bands


@njit(**SOFT_KERNEL)
def load_face(verts, faces, n, f):
    """A face's first vertex in the picture, its least depth and its constants."""
    i, j, k = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
    x0, y0, z0 = verts[n, i, 0], verts[n, i, 1], verts[n, i, 2]
    ax, ay, z1 = verts[n, j, 0] - x0, verts[n, j, 1] - y0, verts[n, j, 2]
    bx, by, z2 = verts[n, k, 0] - x0, verts[n, k, 1] - y0, verts[n, k, 2]
    cx, cy = bx - ax, by - ay
    sign = _ONE if bx * ay - by * ax > _ZERO else -_ONE
    inv_a = _ONE / max(ax * ax + ay * ay, _MIN_EDGE_SQUARED)
    inv_b = _ONE / max(bx * bx + by * by, _MIN_EDGE_SQUARED)
    inv_c = _ONE / max(cx * cx + cy * cy, _MIN_EDGE_SQUARED)
    constants = (ax, ay, bx, by, cx, cy, inv_a, inv_b, inv_c, sign / z0, sign / z1, sign / z2, z0, z1, z2)
    return x0, y0, min(z0, min(z1, z2)), constants


@njit(**SOFT_KERNEL)
def load_corners(values, face_uv, faces, n, f, corners):
    """Writes the attributes of a face's corners, three numbers each."""
    i, j, k = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
    n_values = values.shape[2]
    for c in range(n_values):
        corners[3 * c], corners[3 * c + 1], corners[3 * c + 2] = values[n, i, c], values[n, j, c], values[n, k, c]
    for c in range(face_uv.shape[2]):
        at = 3 * (n_values + c)
        corners[at], corners[at + 1], corners[at + 2] = face_uv[f, 0, c], face_uv[f, 1, c], face_uv[f, 2, c]


@njit(**SOFT_KERNEL)
def start_run(face, qx, qy):
    """For a run of pixels that begins at (qx, qy) from a face's first vertex: edge functions over depth and shares
    along the edges, and by how much each of them grows from pixel to pixel.
    """
    ax, ay, bx, by, cx, cy, inv_a, inv_b, inv_c, s0, s1, s2, _, _, _ = face
    starts = (
        ((qx - ax) * cy - (qy - ay) * cx) * s0,
        (qy * bx - qx * by) * s1,
        (qx * ay - qy * ax) * s2,
        (ax * qx + ay * qy) * inv_a,
        (bx * qx + by * qy) * inv_b,
        (cx * (qx - ax) + cy * (qy - ay)) * inv_c,
    )
    return starts, (cy * s0, -by * s1, ay * s2, ax * inv_a, bx * inv_b, cx * inv_c)


@njit(**SOFT_KERNEL)
def _squared_distance(qx, qy, dx, dy, t):
    """Squared distance of the point (qx, qy) to the segment from the origin to (dx, dy), t its share along it."""
    t = t if t > _ZERO else _ZERO
    t = t if t < _ONE else _ONE
    x, y = qx - t * dx, qy - t * dy
    return x * x + y * y


@njit(**SOFT_KERNEL)
def coverage(distance2, inside, inv_sigma, one_sided):
    """How much a face covers a pixel by its squared distance."""
    prob = _ONE / (_ONE + fast_exp((-distance2 if inside else distance2) * inv_sigma))
    both = _ONE if inside else prob + prob
    return both if one_sided else prob


@njit(**INLINED)
def _hit(face, starts, steps, qx, qy, step, reach2, inv_sigma, one_sided):
    """Coordinates, depth and coverage of the pixel `step` into a run, and whether the face reaches it."""
    ax, ay, bx, by, cx, cy, _, _, _, _, _, _, z0, z1, z2 = face
    x = qx + step
    t0, t1, t2 = starts[0] + step * steps[0], starts[1] + step * steps[1], starts[2] + step * steps[2]
    inside = (t0 > _ZERO) & (t1 > _ZERO) & (t2 > _ZERO)
    t0 = t0 if t0 > _ZERO else _ZERO
    t1 = t1 if t1 > _ZERO else _ZERO
    t2 = t2 if t2 > _ZERO else _ZERO
    scale = _ONE / (t0 + t1 + t2)
    c0, c1, c2 = t0 * scale, t1 * scale, t2 * scale
    dist_a = _squared_distance(x, qy, ax, ay, starts[3] + step * steps[3])
    dist_b = _squared_distance(x, qy, bx, by, starts[4] + step * steps[4])
    dist_c = _squared_distance(x - ax, qy - ay, cx, cy, starts[5] + step * steps[5])
    dist = dist_a if dist_a < dist_b else dist_b
    dist = dist if dist < dist_c else dist_c
    prob = coverage(dist, inside, inv_sigma, one_sided)
    return c0, c1, c2, c0 * z0 + c1 * z1 + c2 * z2, prob, inside | (dist < reach2)


@njit(**SOFT_KERNEL)
def _cover_run(run, face, starts, steps, qx, qy, last, reach2, inv_sigma, one_sided):
    """Takes a face's depths and coverage into those of the pixels up to `last`."""
    for i in range(LANES):
        step = np.float32(i)
        _, _, _, depth, prob, hit = _hit(face, starts, steps, qx, qy, step, reach2, inv_sigma, one_sided)
        hit &= i <= last
        before = run[NEAREST + i]
        run[NEAREST + i] = depth if hit & (depth < before) else before
        clear = run[_CLEAR + i] * (_ONE - (prob if hit else _ZERO))
        run[_CLEAR + i] = clear if clear > _TINY else _ZERO


@njit(**SOFT_KERNEL)
def _weigh_run(run, face, starts, steps, qx, qy, last, reach2, inv_sigma, inv_gamma, one_sided):
    """A face's weights in the pixels up to `last`, whole and by corner; tells whether there is any."""
    any_weight = False
    for i in range(LANES):
        step = np.float32(i)
        c0, c1, c2, depth, prob, hit = _hit(face, starts, steps, qx, qy, step, reach2, inv_sigma, one_sided)
        hit &= i <= last
        any_weight |= hit
        behind = (run[NEAREST + i] - depth) * inv_gamma
        weight = prob * fast_exp(behind if behind < _ZERO else _ZERO)
        run[_WEIGHT + i] = weight if hit else _ZERO
        run[_WEIGHT0 + i] = weight * c0 if hit else _ZERO
        run[_WEIGHT1 + i] = weight * c1 if hit else _ZERO
        run[_WEIGHT2 + i] = weight * c2 if hit else _ZERO
    return any_weight


@njit(**SOFT_KERNEL)
def runs_beyond(run, at, depth):
    """Whether any of the depths in the run lies beyond this one."""
    any_beyond = False
    for i in range(LANES):
        any_beyond |= run[at + i] > depth
    return any_beyond


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
                x0, y0, depth, face = load_face(verts, faces, n, f)
                if walk == 1:
                    load_corners(values, face_uv, faces, n, f, corners)
                for y in range(top, bottom + 1):
                    qy = np.float32(y - n * height) + np.float32(0.5) - y0
                    for x in range(left, right + 1, LANES):
                        qx = np.float32(x) + np.float32(0.5) - x0
                        at = y * n_lines * line + x
                        copy_lanes(run, NEAREST, flat, at + NEAREST_PLANE * line)
                        if walk == 0:
                            copy_lanes(run, _CLEAR, flat, at + CLEAR_PLANE * line)
                            starts, steps = start_run(face, qx, qy)
                            _cover_run(run, face, starts, steps, qx, qy, right - x, reach2, inv_sigma, one_sided)
                            copy_lanes(flat, at + NEAREST_PLANE * line, run, NEAREST)
                            copy_lanes(flat, at + CLEAR_PLANE * line, run, _CLEAR)
                            continue
                        if not runs_beyond(run, NEAREST, depth - behind):
                            continue
                        starts, steps = start_run(face, qx, qy)
                        if not _weigh_run(run, face, starts, steps, qx, qy, right - x, reach2, inv_sigma, inv_gamma,
                                          one_sided):  # fmt: skip
                            continue
                        add_scaled(flat, at + TOTAL_PLANE * line, run, _WEIGHT, _ONE)
                        for c in range(n_channels):
                            to = at + (N_PLANES + c) * line
                            for corner in range(3):
                                add_scaled(flat, to, run, _WEIGHT0 + corner * LANES, corners[3 * c + corner])
    for y in range(low, high):
        for x in range(width):
            background = background_weight(planes[y, NEAREST_PLANE, x], z_far, inv_gamma)
            inv_total = _ONE / (planes[y, TOTAL_PLANE, x] + background)
            planes[y, TOTAL_PLANE, x] = inv_total
            share[y, x] = background * inv_total
            alpha[y, x] = _ONE - planes[y, CLEAR_PLANE, x]
            for c in range(n_channels):
                color[y, x, c] = planes[y, N_PLANES + c, x] * inv_total
