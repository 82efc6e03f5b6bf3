"""The rasteriser's forward pass: the nearest faces of every pixel, equal bit for bit to PyTorch3D's CPU code.

A tile of 8x8 pixels walks its list of faces once. A face is evaluated for one row of a tile at a time, eight pixels
in one vector register; rows without a candidate are left before the distances to the edges are computed. With one
face per pixel the tile keeps a depth buffer. With more it keeps, per pixel, a list of 64-bit keys

    depth bits (32) | position in the tile's list (32)

and beside each the record of the hit: distance and barycentric coordinates. Depths are not negative, so that their
bits sort like the numbers, and the position breaks ties by ascending face as PyTorch3D does. The lists are not kept
in order: only a full one looks for its last key, and in the end a key's place is the number of keys below it.

Equal bits need the reference's order of operations, true divisions, no fused multiply-add, and its mixed precision:
epsilon is a double, so that the doubled area plus epsilon is rounded once.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from raylib.kernels.threads import KERNEL
from raylib.render.kernels.binning import TILE

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_EMPTY = np.float32(-1.0)
MIN_DENOMINATOR = 1e-8
MIN_BARY_SUM = 1e-5
MIN_EDGE_SQUARED = 1e-8
AREA_EPSILON = 1e-8
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_MIN_BARY_SUM = np.float32(MIN_BARY_SUM)
_MIN_EDGE_SQUARED = np.float32(MIN_EDGE_SQUARED)

# A row of a tile is one flat array, eight floats a quantity: one array without aliasing is what vectorises.
_DEPTH, _BARY0, _BARY1, _BARY2, _DIST, _INSIDE, _X = 0, 8, 16, 24, 32, 40, 48
_ROW_FLOATS = 56
_LOW_MASK = 0xFFFFFFFF
_LAST_KEY = np.int64(2**63 - 1)
_KEYS = 8  # compared at a time


@intrinsic
def _count_below(typing_context, keys, at, key):
    """How many of eight keys are smaller than this one."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        vector = ir.VectorType(ir.IntType(64), _KEYS)
        others = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()), align=8)
        splat = ir.Constant(others.type, ir.Undefined)
        for lane in range(_KEYS):
            splat = builder.insert_element(splat, arguments[2], ir.Constant(ir.IntType(32), lane))
        smaller = builder.bitcast(builder.icmp_signed("<", others, splat), ir.IntType(_KEYS))
        return builder.zext(builder.ctpop(smaller), ir.IntType(64))

    return types.int64(keys, types.intp, types.int64), generate


@njit(**KERNEL)
def _row_barycentric(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, area, y, perspective, clip, lanes):
    """Depth, barycentric coordinates and insideness of the eight pixels of a row; `lanes` is eight.

    A count that the compiler does not know keeps it from unrolling the loop, which it would not vectorise any more.
    """
    for i in range(lanes):
        x = row[_X + i]
        w0 = ((x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)) / area
        w1 = ((x - x2) * (y0 - y2) - (y - y2) * (x0 - x2)) / area
        w2 = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / area
        if perspective:
            top0 = w0 * z1 * z2
            top1 = w1 * z0 * z2
            top2 = w2 * z0 * z1
            bottom = top0 + top1 + top2
            bottom = bottom if bottom > _MIN_DENOMINATOR else _MIN_DENOMINATOR
            w0 = top0 / bottom
            w1 = top1 / bottom
            w2 = top2 / bottom
        row[_INSIDE + i] = _ONE if (w0 > _ZERO) & (w1 > _ZERO) & (w2 > _ZERO) else _ZERO
        if clip:
            w0 = w0 if w0 > _ZERO else _ZERO
            w1 = w1 if w1 > _ZERO else _ZERO
            w2 = w2 if w2 > _ZERO else _ZERO
            total = w0 + w1 + w2
            total = total if total > _MIN_BARY_SUM else _MIN_BARY_SUM
            w0 = w0 / total
            w1 = w1 / total
            w2 = w2 / total
        row[_BARY0 + i] = w0
        row[_BARY1 + i] = w1
        row[_BARY2 + i] = w2
        row[_DEPTH + i] = (w0 * z0 + w1 * z1 + w2 * z2) + _ZERO  # adding zero makes -0 sort as 0


@njit(**KERNEL)
def _row_distances(row, x0, y0, x1, y1, x2, y2, y):
    """Squared distances of the eight pixels of a row to the nearest edge, always positive."""
    ax, ay, bx, by, cx, cy = x1 - x0, y1 - y0, x2 - x0, y2 - y0, x2 - x1, y2 - y1
    len_a, len_b, len_c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    from_ax, from_ay, from_bx, from_by, from_cx, from_cy = x0, y0, x0, y0, x1, y1
    # An edge shorter than 1e-4 counts as its end point: a zero direction that starts there.
    if len_a <= _MIN_EDGE_SQUARED:
        from_ax, from_ay, ax, ay, len_a = x1, y1, _ZERO, _ZERO, _ONE
    if len_b <= _MIN_EDGE_SQUARED:
        from_bx, from_by, bx, by, len_b = x2, y2, _ZERO, _ZERO, _ONE
    if len_c <= _MIN_EDGE_SQUARED:
        from_cx, from_cy, cx, cy, len_c = x2, y2, _ZERO, _ZERO, _ONE
    for i in range(TILE):
        x = row[_X + i]
        t = (ax * (x - from_ax) + ay * (y - from_ay)) / len_a
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - (from_ax + t * ax), y - (from_ay + t * ay)
        dist_a = dx * dx + dy * dy
        t = (bx * (x - from_bx) + by * (y - from_by)) / len_b
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - (from_bx + t * bx), y - (from_by + t * by)
        dist_b = dx * dx + dy * dy
        t = (cx * (x - from_cx) + cy * (y - from_cy)) / len_c
        t = t if t > _ZERO else _ZERO
        t = t if t < _ONE else _ONE
        dx, dy = x - (from_cx + t * cx), y - (from_cy + t * cy)
        dist_c = dx * dx + dy * dy
        dist = dist_a if dist_a < dist_b else dist_b
        row[_DIST + i] = dist if dist < dist_c else dist_c


@njit(**KERNEL)
def _signed_area(x0, y0, x1, y1, x2, y2):
    """Twice the signed area plus epsilon, rounded once."""
    return np.float32(np.float64((x2 - x0) * (y1 - y0) - (y2 - y0) * (x1 - x0)) + AREA_EPSILON)


@njit(**KERNEL)
def _tile_nearest(face_verts, boxes, face_lists, twins, begin, end, left, top, right, bottom, rows, blur_radius,
                  perspective, clip, row, depth, face, record):  # fmt: skip
    """Nearest face of each pixel of a tile, into `depth`, `face` and `record` (distance, three coordinates)."""
    soft = blur_radius > _ZERO
    lanes = boxes.shape[1] * 2
    has_twins = twins.shape[0] > 0
    for p in range(TILE * TILE):
        face[p] = -1
        depth[p] = np.float32(np.inf)
    for q in range(begin, end):
        f = np.int64(face_lists[q])
        twin = twins[f] if has_twins else np.int64(-1)
        x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
        x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
        x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
        first = max(np.int64(boxes[f, 0]), left) - left
        last = min(np.int64(boxes[f, 1]), right) - left
        area = _signed_area(x0, y0, x1, y1, x2, y2)
        for y in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
            start = (y - top) * TILE
            _row_barycentric(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, area, rows[y], perspective, clip, lanes)
            candidate = False
            for i in range(TILE):
                nearer = (row[_DEPTH + i] < depth[start + i]) | (twin >= 0)
                candidate |= (
                    nearer
                    & (row[_DEPTH + i] >= _ZERO)
                    & (soft | (row[_INSIDE + i] != _ZERO))
                    & (i >= first)
                    & (i <= last)
                )
            if not candidate:
                continue
            _row_distances(row, x0, y0, x1, y1, x2, y2, rows[y])
            for i in range(first, last + 1):
                inside = row[_INSIDE + i] != _ZERO
                if not (row[_DEPTH + i] >= _ZERO) or not (inside or row[_DIST + i] < blur_radius):
                    continue
                p = start + i
                if twin >= 0 and face[p] == twin:
                    if row[_DIST + i] >= abs(record[p * 4]):
                        continue
                elif not row[_DEPTH + i] < depth[p]:
                    continue
                face[p] = f
                depth[p] = row[_DEPTH + i]
                record[p * 4] = -row[_DIST + i] if inside else row[_DIST + i]
                record[p * 4 + 1] = row[_BARY0 + i]
                record[p * 4 + 2] = row[_BARY1 + i]
                record[p * 4 + 3] = row[_BARY2 + i]


@njit(**KERNEL)
def _slot_of_last(keys, base, n):
    """Where the largest of n keys, no two of them equal, stands: two loops that vectorise."""
    last = keys[base]
    for k in range(n):
        last = max(last, keys[base + np.uint64(k)])
    slot = 0
    for k in range(n):
        slot += k if keys[base + np.uint64(k)] == last else 0
    return slot


@njit(**KERNEL)
def _tile_lists(face_verts, boxes, face_lists, twins, begin, end, left, top, right, bottom, rows, blur_radius,
                perspective, clip, row, row_bits, capacity, stride, keys, records, counts,
                last_slots):  # fmt: skip
    """Nearest `capacity` faces of each pixel of a tile in any order, as keys and records."""
    soft = blur_radius > _ZERO
    lanes = boxes.shape[1] * 2
    has_twins = twins.shape[0] > 0
    for p in range(TILE * TILE):
        counts[p], last_slots[p] = 0, -1
    for q in range(begin, end):
        f = np.int64(face_lists[q])
        twin = twins[f] if has_twins else np.int64(-1)
        x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
        x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
        x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
        first = max(np.int64(boxes[f, 0]), left) - left
        last = min(np.int64(boxes[f, 1]), right) - left
        area = _signed_area(x0, y0, x1, y1, x2, y2)
        for y in range(max(np.int64(boxes[f, 2]), top), min(np.int64(boxes[f, 3]), bottom) + 1):
            start = (y - top) * TILE
            _row_barycentric(row, x0, y0, z0, x1, y1, z1, x2, y2, z2, area, rows[y], perspective, clip, lanes)
            candidate = False
            for i in range(TILE):
                candidate |= (
                    (row[_DEPTH + i] >= _ZERO) & (soft | (row[_INSIDE + i] != _ZERO)) & (i >= first) & (i <= last)
                )
            if not candidate:
                continue
            _row_distances(row, x0, y0, x1, y1, x2, y2, rows[y])
            for i in range(first, last + 1):
                inside = row[_INSIDE + i] != _ZERO
                if not (row[_DEPTH + i] >= _ZERO) or not (inside or row[_DIST + i] < blur_radius):
                    continue
                p = start + i
                base = p * stride
                count = np.int64(counts[p])
                key = (np.int64(row_bits[_DEPTH + i]) << 32) | (q - begin)
                slot = count
                if twin >= 0:
                    for k in range(count):
                        if face_lists[begin + (keys[base + k] & _LOW_MASK)] == twin:
                            slot = k
                if slot < count:
                    # The other half of a clipped face is here already: the half nearer to the pixel stays.
                    if row[_DIST + i] >= abs(records[(base + slot) * 4]):
                        continue
                elif count == capacity:
                    if last_slots[p] < 0:
                        last_slots[p] = _slot_of_last(keys, np.uint64(base), capacity)
                    slot = np.int64(last_slots[p])
                    if key >= keys[base + slot]:
                        continue
                    last_slots[p] = -1
                else:
                    counts[p] = count + 1
                keys[base + slot] = key
                at = (base + slot) * 4
                records[at] = -row[_DIST + i] if inside else row[_DIST + i]
                records[at + 1] = row[_BARY0 + i]
                records[at + 2] = row[_BARY1 + i]
                records[at + 3] = row[_BARY2 + i]


@njit(**KERNEL)
def rasterize_tiles(part, parts, face_verts, boxes, face_lists, offsets, twins, columns, rows, blur_radius, capacity,
                    n_images, tile_columns, tile_rows, perspective, clip,
                    pix_to_face, zbuf, bary_coords, dists):  # fmt: skip
    """Writes the nearest faces of every pixel, every `parts`-th row of tiles from `part` on.

    Args:
        part: this part.
        parts: number of parts.
        face_verts: (faces, 9) x, y, depth of the vertices of each face.
        boxes: (faces, 4) from `bin_faces`.
        face_lists: from `bin_faces`.
        offsets: from `bin_faces`.
        twins: (faces,) the other half of each clipped and split face, -1 elsewhere; or empty.
        columns: x of the pixel centres.
        rows: y of the pixel centres.
        blur_radius: squared distance up to which a face reaches beyond its edges.
        capacity: faces kept per pixel, at most 255.
        n_images: number of images.
        tile_columns: tiles from left to right.
        tile_rows: tiles from top to bottom.
        perspective: whether barycentric coordinates are corrected for perspective.
        clip: whether barycentric coordinates are clipped to the face.
        pix_to_face: (images * height * width * capacity) output, -1 where there is none.
        zbuf: depth, likewise.
        bary_coords: three barycentric coordinates each, likewise.
        dists: signed squared distance to the nearest edge, negative inside, likewise.
    """
    height, width = rows.shape[0], columns.shape[0]
    n_tiles = tile_columns * tile_rows
    n_pixels = TILE * TILE
    stride = (capacity + _KEYS - 1) // _KEYS * _KEYS
    row = np.zeros(_ROW_FLOATS, np.float32)
    row_bits = row.view(np.int32)
    bits = np.empty(1, np.int32)
    bits_as_float = bits.view(np.float32)
    keys = np.empty(n_pixels * stride, np.int64)
    records = np.empty(n_pixels * stride * 4, np.float32)
    counts, last_slots = np.zeros(n_pixels, np.int32), np.zeros(n_pixels, np.int32)
    depth = np.empty(n_pixels, np.float32)
    face = np.empty(n_pixels, np.int64)
    for tile_row in range(part, n_images * tile_rows, parts):
        n = tile_row // tile_rows
        top = (tile_row - n * tile_rows) * TILE
        bottom = min(height, top + TILE) - 1
        # The rows of a tile row are neighbours in memory: emptied in one go, they stay in the cache for the hits.
        out, out_end = (n * height + top) * width * capacity, (n * height + bottom + 1) * width * capacity
        pix_to_face[out:out_end] = -1
        zbuf[out:out_end] = _EMPTY
        dists[out:out_end] = _EMPTY
        bary_coords[out * 3 : out_end * 3] = _EMPTY
        for tile_column in range(tile_columns):
            tile = n * n_tiles + (tile_row - n * tile_rows) * tile_columns + tile_column
            begin, end = offsets[tile], offsets[tile + 1]
            left = tile_column * TILE
            right = min(width, left + TILE) - 1
            if end <= begin:
                continue
            for i in range(TILE):
                row[_X + i] = columns[min(left + i, width - 1)]
            if capacity == 1:
                _tile_nearest(face_verts, boxes, face_lists, twins, begin, end, left, top, right, bottom, rows,
                              blur_radius, perspective, clip, row, depth, face, records)  # fmt: skip
                for y in range(top, bottom + 1):
                    for x in range(left, right + 1):
                        p = (y - top) * TILE + x - left
                        if face[p] >= 0:
                            out = (n * height + y) * width + x
                            pix_to_face[out] = face[p]
                            zbuf[out] = depth[p]
                            dists[out] = records[p * 4]
                            for c in range(3):
                                bary_coords[out * 3 + c] = records[p * 4 + 1 + c]
                continue
            _tile_lists(face_verts, boxes, face_lists, twins, begin, end, left, top, right, bottom, rows,
                        blur_radius, perspective, clip, row, row_bits, capacity, stride, keys, records, counts,
                        last_slots)  # fmt: skip
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    p = (y - top) * TILE + x - left
                    base, count = p * stride, np.int64(counts[p])
                    for k in range(count, (count + _KEYS - 1) // _KEYS * _KEYS):
                        keys[base + k] = _LAST_KEY
                    for slot in range(count):
                        key = keys[base + slot]
                        # A key's place is the number of smaller ones: counting eight at a time beats sorting.
                        out = ((n * height + y) * width + x) * capacity
                        for other in range(0, count, _KEYS):
                            out += _count_below(keys, base + other, key)
                        at = (base + slot) * 4
                        bits[0] = np.int32(key >> 32)
                        zbuf[out] = bits_as_float[0]
                        pix_to_face[out] = face_lists[begin + (key & _LOW_MASK)]
                        dists[out] = records[at]
                        for c in range(3):
                            bary_coords[out * 3 + c] = records[at + 1 + c]
