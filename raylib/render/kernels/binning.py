"""Which faces may touch which 8x8 tile of pixels: bounding boxes, then one list of faces a tile.

A face's box holds the pixels whose centres lie within its bounds widened by the blur, as PyTorch3D tests them pixel
by pixel. The lists of all tiles of all images are one array with offsets (compressed sparse rows), each in ascending
order of faces, so that walking a list meets equal depths in the order in which PyTorch3D sorts them.

Pixel coordinates are given as tables that fall strictly from left to right and from top to bottom: PyTorch3D's NDC
axes point left and up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from raylib.errors import RaylibError
from raylib.kernels.threads import KERNEL, parts_for, run_parts

TILE = 8
"""Edge of a tile in pixels; a row of a tile fills one vector register of eight floats."""

_LOG2_TILE = 3
_FACE_CHUNK = 2048

_FACES_WORTH_A_THREAD = 2048
"""See `parts_for`."""

_MIN_AREA = 1e-8
_MIN_DEPTH = 1e-8


@dataclass(frozen=True)
class TileGrid:
    """Faces sorted into tiles.

    Attributes:
        columns: x of the pixel centres, strictly falling.
        rows: y of the pixel centres, strictly falling.
        boxes: (faces, 4) first and last column, first and last row of each face; last < first where it is invisible.
        offsets: (images * tile rows * tile columns + 1) start of each tile's list.
        face_lists: faces of each tile, ascending within a tile.
        tile_columns: number of tiles from left to right.
        tile_rows: number of tiles from top to bottom.
    """

    columns: NDArray[np.float32]
    rows: NDArray[np.float32]
    boxes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    face_lists: NDArray[np.int32]
    tile_columns: int
    tile_rows: int


def ndc_pixel_centers(size: int, other: int) -> NDArray[np.float32]:
    """Returns the NDC coordinates of the pixel centres along an axis of `size` pixels, strictly falling.

    PyTorch3D's convention: the shorter axis spans [-1, 1], the longer one more, with square pixels. The operations
    follow its single-precision order, because the drop-in rasteriser promises equal bits.

    Args:
        size: pixels along this axis.
        other: pixels along the other axis.
    """
    one, two = np.float32(1), np.float32(2)
    span = two if size <= other else np.float32(np.float32(size * two) / np.float32(other))
    half = np.float32(span / two)
    index = np.arange(size - 1, -1, -1).astype(np.float32)
    return (-half + (span * index + half) / np.float32(size * one)).astype(np.float32)


@njit(**KERNEL)
def _centers_between(centers, low, high, step):
    """First and last index whose centre lies in [low, high]; last < first where there is none."""
    n = centers.shape[0]
    if high < centers[n - 1] or low > centers[0] or not (low <= high):
        return 0, -1
    # A guess by division, then steps by comparison: the comparison is what PyTorch3D decides with.
    first = max(0, min(n - 1, math.floor((centers[0] - high) / step)))
    while first > 0 and centers[first - 1] <= high:
        first -= 1
    while first < n and centers[first] > high:
        first += 1
    last = max(0, min(n - 1, math.ceil((centers[0] - low) / step)))
    while last < n - 1 and centers[last + 1] >= low:
        last += 1
    while last >= 0 and centers[last] < low:
        last -= 1
    return first, last


@njit(**KERNEL)
def _face_boxes(part, parts, face_verts, columns, rows, radius, cull_backfaces, boxes, bad_face):
    """Writes the box of each face, and to `bad_face[part]` the last face with a coordinate that is not usable."""
    n_faces = face_verts.shape[0]
    step_x = columns[0] - columns[1] if columns.shape[0] > 1 else np.float32(1.0)
    step_y = rows[0] - rows[1] if rows.shape[0] > 1 else np.float32(1.0)
    for chunk in range(part, (n_faces + _FACE_CHUNK - 1) // _FACE_CHUNK, parts):
        for f in range(chunk * _FACE_CHUNK, min(n_faces, (chunk + 1) * _FACE_CHUNK)):
            x0, y0, z0 = face_verts[f, 0], face_verts[f, 1], face_verts[f, 2]
            x1, y1, z1 = face_verts[f, 3], face_verts[f, 4], face_verts[f, 5]
            x2, y2, z2 = face_verts[f, 6], face_verts[f, 7], face_verts[f, 8]
            boxes[f, 0], boxes[f, 1], boxes[f, 2], boxes[f, 3] = 0, -1, 0, -1
            depth = min(z0, min(z1, z2))
            total = x0 + y0 + z0 + x1 + y1 + z1 + x2 + y2 + z2
            if not math.isfinite(total):
                # Projecting a vertex of the camera's own plane gives infinities; such a face is culled anyway.
                has_nan = False
                for c in range(9):
                    has_nan |= math.isnan(face_verts[f, c])
                if has_nan or depth >= _MIN_DEPTH:
                    bad_face[part] = f
                continue
            area = (x0 - x1) * (y2 - y1) - (y0 - y1) * (x2 - x1)
            if abs(np.float64(area)) <= _MIN_AREA or np.float64(depth) < _MIN_DEPTH:
                continue
            if cull_backfaces and area < 0:
                continue
            left, right = _centers_between(
                columns, min(x0, min(x1, x2)) - radius, max(x0, max(x1, x2)) + radius, step_x
            )
            top, bottom = _centers_between(rows, min(y0, min(y1, y2)) - radius, max(y0, max(y1, y2)) + radius, step_y)
            if left <= right and top <= bottom:
                boxes[f, 0], boxes[f, 1], boxes[f, 2], boxes[f, 3] = left, right, top, bottom


@njit(**KERNEL)
def _count_faces(part, parts, boxes, first_face, n_faces, tile_columns, tile_rows, counts):
    """Counts the faces of each tile into `counts[tile + 1]`, every `parts`-th row of tiles from `part` on."""
    for n in range(first_face.shape[0]):
        for f in range(first_face[n], first_face[n] + n_faces[n]):
            if boxes[f, 1] < boxes[f, 0]:
                continue
            top = n * tile_rows + (boxes[f, 2] >> _LOG2_TILE)
            bottom = n * tile_rows + (boxes[f, 3] >> _LOG2_TILE)
            for row in range(top + (part - top) % parts, bottom + 1, parts):
                for tx in range(boxes[f, 0] >> _LOG2_TILE, (boxes[f, 1] >> _LOG2_TILE) + 1):
                    counts[row * tile_columns + tx + 1] += 1


@njit(**KERNEL)
def _fill_lists(part, parts, boxes, first_face, n_faces, tile_columns, tile_rows, ends, face_lists):
    """Writes the faces of each tile, ascending, and moves its entry of `ends` from its list's start to its end."""
    for n in range(first_face.shape[0]):
        for f in range(first_face[n], first_face[n] + n_faces[n]):
            if boxes[f, 1] < boxes[f, 0]:
                continue
            top = n * tile_rows + (boxes[f, 2] >> _LOG2_TILE)
            bottom = n * tile_rows + (boxes[f, 3] >> _LOG2_TILE)
            for row in range(top + (part - top) % parts, bottom + 1, parts):
                for tx in range(boxes[f, 0] >> _LOG2_TILE, (boxes[f, 1] >> _LOG2_TILE) + 1):
                    tile = row * tile_columns + tx
                    face_lists[ends[tile]] = f
                    ends[tile] += 1


def unusable_face(mesh: int, face: int, corners: NDArray[np.float32]) -> RaylibError:
    """Returns the error about a face whose vertices (3, 3) are not usable numbers."""
    return RaylibError(
        f"face {face} of mesh {mesh} has the vertices {corners.tolist()} (x, y, depth), expected finite numbers"
    )


def bin_faces(
    face_verts: NDArray[np.float32],
    first_face: NDArray[np.int64],
    n_faces: NDArray[np.int64],
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    blur_radius: float,
    cull_backfaces: bool,
    threads: int,
) -> TileGrid:
    """Returns the faces of every tile of every image.

    Args:
        face_verts: (faces, 9) x, y, depth of the three vertices of each face.
        first_face: (images,) index of each image's first face.
        n_faces: (images,) number of each image's faces.
        columns: x of the pixel centres, strictly falling.
        rows: y of the pixel centres, strictly falling.
        blur_radius: squared distance up to which a face reaches beyond its edges.
        cull_backfaces: whether to leave out faces of negative area.
        threads: number of threads.

    Raises:
        RaylibError: a vertex is NaN, or infinite in front of the camera.
    """
    boxes = np.empty((face_verts.shape[0], 4), np.int32)
    parts = min(threads, parts_for(len(boxes), _FACES_WORTH_A_THREAD))
    bad_face = np.full(parts, -1, np.int64)
    radius = np.sqrt(np.float32(blur_radius))
    run_parts(_face_boxes, parts, face_verts, columns, rows, radius, cull_backfaces, boxes, bad_face)
    if bad_face.max() >= 0:
        face = int(bad_face.max())
        image = int(np.searchsorted(first_face, face, side="right")) - 1
        raise unusable_face(image, face - int(first_face[image]), face_verts[face].reshape(3, 3))
    tile_columns, tile_rows = -(-len(columns) // TILE), -(-len(rows) // TILE)
    offsets = np.zeros(len(first_face) * tile_rows * tile_columns + 1, np.int64)
    run_parts(_count_faces, parts, boxes, first_face, n_faces, tile_columns, tile_rows, offsets)
    np.cumsum(offsets, out=offsets)
    face_lists = np.empty(offsets[-1], np.int32)
    ends = offsets[:-1].copy()
    run_parts(_fill_lists, parts, boxes, first_face, n_faces, tile_columns, tile_rows, ends, face_lists)
    return TileGrid(columns, rows, boxes, offsets, face_lists, tile_columns, tile_rows)
