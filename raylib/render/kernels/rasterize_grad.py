"""The rasteriser's backward pass: gradients of depths, barycentric coordinates and distances to the vertices.

Hits (one face in one pixel) are collected eight at a time and differentiated side by side in vector registers, then
scattered to their faces. A pixel's hits end at its first -1. The values are recomputed from the vertices, not stored.

The arithmetic is in double precision: on faces seen edge-on the edge functions cancel, and single precision loses up
to five digits of their gradients. It costs a fifth more time than single precision.

Where the reference differentiates a clamped denominator, these kernels differ from it on purpose. Clipped coordinates
are normalised to sum to one, so that scaling all of them changes nothing: the term through the denominator of the
perspective correction is zero. PyTorch3D computes that zero as a difference of terms that it divides by up to 1e-8
squared, and gets wrong gradients on faces seen edge-on.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from raylib.kernels.threads import KERNEL
from raylib.render.kernels.rasterize import AREA_EPSILON, MIN_BARY_SUM, MIN_DENOMINATOR, MIN_EDGE_SQUARED

LANES = 8
"""Hits differentiated at a time."""

# One flat array of hits, eight numbers a quantity: nine vertex coordinates, the pixel, five incoming gradients, and
# the nine gradients that go out.
_VERT, _X, _Y, _GRAD_DEPTH, _GRAD_BARY, _GRAD_DIST, _OUT = 0, 72, 80, 88, 96, 120, 128
_HIT_SIZE = 200


@njit(**KERNEL)
def _differentiate(hits, perspective, clip):
    """Gradients of eight hits to the coordinates of their faces' vertices."""
    for i in range(LANES):
        x0, y0, z0 = hits[i], hits[8 + i], hits[16 + i]
        x1, y1, z1 = hits[24 + i], hits[32 + i], hits[40 + i]
        x2, y2, z2 = hits[48 + i], hits[56 + i], hits[64 + i]
        x, y = hits[_X + i], hits[_Y + i]

        # Forward values: u in the image, w after perspective correction, c after clipping.
        inv_area = 1.0 / ((x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0) + AREA_EPSILON)
        u0 = ((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) * inv_area
        u1 = ((x - x2) * (y0 - y2) - (y - y2) * (x0 - x2)) * inv_area
        u2 = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) * inv_area
        w0, w1, w2 = u0, u1, u2
        top0, top1, top2, inv_bottom, bottom_free = 0.0, 0.0, 0.0, 1.0, 1.0
        if perspective:
            top0, top1, top2 = u0 * z1 * z2, u1 * z0 * z2, u2 * z0 * z1
            bottom = top0 + top1 + top2
            bottom_free = 1.0 if bottom > MIN_DENOMINATOR else 0.0
            inv_bottom = 1.0 / (bottom if bottom > MIN_DENOMINATOR else MIN_DENOMINATOR)
            w0, w1, w2 = top0 * inv_bottom, top1 * inv_bottom, top2 * inv_bottom
        outside_sign = -1.0 if (w0 > 0.0) & (w1 > 0.0) & (w2 > 0.0) else 1.0
        c0, c1, c2, inv_sum, sum_free = w0, w1, w2, 1.0, 1.0
        if clip:
            c0 = w0 if w0 > 0.0 else 0.0
            c1 = w1 if w1 > 0.0 else 0.0
            c2 = w2 if w2 > 0.0 else 0.0
            total = c0 + c1 + c2
            sum_free = 0.0 if total < MIN_BARY_SUM else 1.0
            inv_sum = 1.0 / (total if total > MIN_BARY_SUM else MIN_BARY_SUM)

        # Nearest point of each edge, a = v0 v1, b = v0 v2, c = v1 v2, at fraction t; an edge too short is its end.
        ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
        len_a, len_b, len_c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
        t_a = (ax * (x - x0) + ay * (y - y0)) / (len_a if len_a > MIN_EDGE_SQUARED else 1.0)
        t_b = (bx * (x - x0) + by * (y - y0)) / (len_b if len_b > MIN_EDGE_SQUARED else 1.0)
        t_c = (cx * (x - x1) + cy * (y - y1)) / (len_c if len_c > MIN_EDGE_SQUARED else 1.0)
        t_a = t_a if t_a > 0.0 else 0.0
        t_b = t_b if t_b > 0.0 else 0.0
        t_c = t_c if t_c > 0.0 else 0.0
        t_a = t_a if (t_a < 1.0) & (len_a > MIN_EDGE_SQUARED) else 1.0
        t_b = t_b if (t_b < 1.0) & (len_b > MIN_EDGE_SQUARED) else 1.0
        t_c = t_c if (t_c < 1.0) & (len_c > MIN_EDGE_SQUARED) else 1.0
        dax, day = x0 + t_a * ax - x, y0 + t_a * ay - y
        dbx, dby = x0 + t_b * bx - x, y0 + t_b * by - y
        dcx, dcy = x1 + t_c * cx - x, y1 + t_c * cy - y
        dist_a, dist_b, dist_c = dax * dax + day * day, dbx * dbx + dby * dby, dcx * dcx + dcy * dcy
        use_a = (dist_a <= dist_b) & (dist_a <= dist_c)
        use_b = dist_b <= dist_c  # where a is not the nearest
        grad_dist = 2.0 * outside_sign * hits[_GRAD_DIST + i]
        point_x = grad_dist * (dax if use_a else (dbx if use_b else dcx))
        point_y = grad_dist * (day if use_a else (dby if use_b else dcy))
        share0 = 1.0 - t_a if use_a else (1.0 - t_b if use_b else 0.0)
        share1 = t_a if use_a else (0.0 if use_b else 1.0 - t_c)
        share2 = 0.0 if use_a else (t_b if use_b else t_c)

        # Back through depth = sum of c z, clipping, perspective correction, and the edge functions.
        grad_depth = hits[_GRAD_DEPTH + i]
        g0 = hits[_GRAD_BARY + i] + grad_depth * z0
        g1 = hits[_GRAD_BARY + 8 + i] + grad_depth * z1
        g2 = hits[_GRAD_BARY + 16 + i] + grad_depth * z2
        if clip:
            mean = (g0 * c0 + g1 * c1 + g2 * c2) * inv_sum * sum_free
            g0 = 0.0 if w0 < 0.0 else (g0 - mean) * inv_sum
            g1 = 0.0 if w1 < 0.0 else (g1 - mean) * inv_sum
            g2 = 0.0 if w2 < 0.0 else (g2 - mean) * inv_sum
        grad_z0, grad_z1, grad_z2 = grad_depth * c0 * inv_sum, grad_depth * c1 * inv_sum, grad_depth * c2 * inv_sum
        if perspective:
            grad_bottom = 0.0
            if not clip:
                grad_bottom = -(top0 * g0 + top1 * g1 + top2 * g2) * inv_bottom * inv_bottom * bottom_free
            top_g0 = grad_bottom + g0 * inv_bottom
            top_g1 = grad_bottom + g1 * inv_bottom
            top_g2 = grad_bottom + g2 * inv_bottom
            grad_z0 += top_g1 * u1 * z2 + top_g2 * u2 * z1
            grad_z1 += top_g0 * u0 * z2 + top_g2 * u2 * z0
            grad_z2 += top_g0 * u0 * z1 + top_g1 * u1 * z0
            g0, g1, g2 = top_g0 * z1 * z2, top_g1 * z0 * z2, top_g2 * z0 * z1
        grad_area = -(g0 * u0 + g1 * u1 + g2 * u2) * inv_area
        g0 *= inv_area
        g1 *= inv_area
        g2 *= inv_area
        hits[_OUT + i] = g1 * (y2 - y) + g2 * (y - y1) + grad_area * (y2 - y1) + share0 * point_x
        hits[_OUT + 8 + i] = g1 * (x - x2) + g2 * (x1 - x) + grad_area * (x1 - x2) + share0 * point_y
        hits[_OUT + 16 + i] = grad_z0
        hits[_OUT + 24 + i] = g0 * (y - y2) + g2 * (y0 - y) + grad_area * (y0 - y2) + share1 * point_x
        hits[_OUT + 32 + i] = g0 * (x2 - x) + g2 * (x - x0) + grad_area * (x2 - x0) + share1 * point_y
        hits[_OUT + 40 + i] = grad_z1
        hits[_OUT + 48 + i] = g0 * (y1 - y) + g1 * (y - y0) + grad_area * (y1 - y0) + share2 * point_x
        hits[_OUT + 56 + i] = g0 * (x - x1) + g1 * (x0 - x) + grad_area * (x0 - x1) + share2 * point_y
        hits[_OUT + 64 + i] = grad_z2


@njit(**KERNEL)
def _flush(hits, hit_faces, count, grad_face_verts, perspective, clip):
    """Differentiates the first `count` hits and adds them to their faces."""
    for i in range(count, LANES):  # idle lanes repeat the first hit without incoming gradients
        for c in range(11):
            hits[c * LANES + i] = hits[c * LANES]
        for c in range(11, 16):
            hits[c * LANES + i] = 0.0
    _differentiate(hits, perspective, clip)
    for i in range(count):
        for c in range(9):
            grad_face_verts[hit_faces[i], c] += hits[_OUT + c * LANES + i]


@njit(**KERNEL)
def rasterize_backward(part, parts, face_verts, pix_to_face, grad_zbuf, grad_bary, grad_dists, columns, rows,
                       n_images, capacity, by_image, perspective, clip, grad_face_verts):  # fmt: skip
    """Adds the gradients of every hit to its face.

    Args:
        part: this part.
        parts: number of parts.
        face_verts: (faces, 9) x, y, depth of the vertices of each face.
        pix_to_face: (images * height * width * capacity) faces that were hit, -1 from the end of a pixel's hits.
        grad_zbuf: incoming gradients, likewise.
        grad_bary: incoming gradients, three each.
        grad_dists: incoming gradients, likewise.
        columns: x of the pixel centres.
        rows: y of the pixel centres.
        n_images: number of images.
        capacity: faces per pixel.
        by_image: whether parts are images, which share no faces, or rows of pixels, which do.
        perspective: whether barycentric coordinates were corrected for perspective.
        clip: whether barycentric coordinates were clipped.
        grad_face_verts: (1 if by_image else parts, faces, 9) sums, zero at first.
    """
    height, width = rows.shape[0], columns.shape[0]
    hits = np.zeros(_HIT_SIZE, np.float64)
    hit_faces = np.zeros(LANES, np.int64)
    count = 0
    grad = grad_face_verts[0] if by_image else grad_face_verts[part]
    for r in range(n_images * height):
        if (r // height if by_image else r) % parts != part:
            continue
        y = rows[r % height]
        for column in range(width):
            at = (r * width + column) * capacity
            for k in range(at, at + capacity):
                f = pix_to_face[k]
                if f < 0:
                    break
                hit_faces[count] = f
                for c in range(9):
                    hits[c * LANES + count] = face_verts[f, c]
                hits[_X + count] = columns[column]
                hits[_Y + count] = y
                hits[_GRAD_DEPTH + count] = grad_zbuf[k]
                for c in range(3):
                    hits[_GRAD_BARY + c * LANES + count] = grad_bary[k * 3 + c]
                hits[_GRAD_DIST + count] = grad_dists[k]
                count += 1
                if count == LANES:
                    _flush(hits, hit_faces, LANES, grad, perspective, clip)
                    count = 0
    if count > 0:
        _flush(hits, hit_faces, count, grad, perspective, clip)
