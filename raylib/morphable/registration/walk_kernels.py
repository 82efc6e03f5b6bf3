"""Kernels that find points in triangles and walk over a surface."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def locate(flat, faces, points):
    """Returns the triangle of a flat mesh that holds each point, or is nearest to it, and the point's place there."""
    triangle = np.zeros(len(points), np.int64)
    bary = np.zeros((len(points), 3))
    for p in range(len(points)):
        best = -1e300
        for f in range(len(faces)):
            a, b, c = flat[faces[f, 0]], flat[faces[f, 1]], flat[faces[f, 2]]
            area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            u = ((b[0] - points[p, 0]) * (c[1] - points[p, 1]) - (b[1] - points[p, 1]) * (c[0] - points[p, 0])) / area
            v = ((c[0] - points[p, 0]) * (a[1] - points[p, 1]) - (c[1] - points[p, 1]) * (a[0] - points[p, 0])) / area
            low = min(u, v, 1 - u - v)
            if low < 0:  # outside: compare distances, not barycentric coordinates of triangles of any size
                low *= np.sqrt(abs(area))
            if low > best:
                best = low
                triangle[p] = f
                u, v = max(u, 0.0), max(v, 0.0)
                w = max(1 - u - v, 0.0)
                bary[p, 0], bary[p, 1], bary[p, 2] = u / (u + v + w), v / (u + v + w), w / (u + v + w)
                if low >= 0:
                    break
    return triangle, bary


@njit(cache=True)
def walk(verts, faces, across, triangle, bary, step):
    """Moves each point by its step, straight on over the triangles unfolded; stops at the boundary. In place."""
    for p in range(len(triangle)):
        f = triangle[p]
        b = bary[p].copy()
        d = step[p].copy()
        n = np.cross(verts[faces[f, 1]] - verts[faces[f, 0]], verts[faces[f, 2]] - verts[faces[f, 0]])
        d = d - n * ((d * n).sum() / (n * n).sum())
        for _ in range(100):
            e1 = verts[faces[f, 1]] - verts[faces[f, 0]]
            e2 = verts[faces[f, 2]] - verts[faces[f, 0]]
            n = np.cross(e1, e2)
            n2 = (n * n).sum()
            d2 = (np.cross(e1, d) * n).sum() / n2
            d1 = (np.cross(d, e2) * n).sum() / n2
            rate = np.array([-d1 - d2, d1, d2])
            t, k = 1.0, -1
            for i in range(3):
                if rate[i] < 0 and -b[i] / rate[i] < t:
                    t, k = max(-b[i] / rate[i], 0.0), i
            b = np.maximum(b + t * rate, 0.0)
            b /= b.sum()
            g = across[f, k] if k >= 0 else -1
            if g < 0:
                break
            # Turn what is left of the step about the common edge into the next triangle.
            d = d * (1 - t)
            start = verts[faces[f, (k + 1) % 3]]
            edge = verts[faces[f, (k + 2) % 3]] - start
            edge = edge / np.sqrt((edge * edge).sum())
            along = (d * edge).sum()
            aside = np.sqrt(max((d * d).sum() - along * along, 0.0))
            c = np.zeros(3)
            inwards = edge
            for j in range(3):
                c[j] = 0.0
                found = False
                for i in range(3):
                    if faces[g, j] == faces[f, i]:
                        c[j] = b[i]
                        found = True
                if not found:
                    inwards = verts[faces[g, j]] - start
            inwards = inwards - edge * (inwards * edge).sum()
            d = along * edge + aside * inwards / np.sqrt((inwards * inwards).sum())
            f, b = g, c
        triangle[p] = f
        bary[p] = b
