"""Kernels of `texturing`; arrays are C-contiguous, colours and weights float32."""

import math

import numpy as np
from numba import njit

from raylib.render.kernels.binning import KERNEL

COS_BLIND, COS_CLEAR = 0.15, 0.5
"""Weights rise from 0 to 1 between these cosines of the viewing angle."""
DEPTH_BIAS_MM = 2.5
"""A point this far behind the foremost surface is still taken to lie on it."""


@njit(**KERNEL)
def inner_share(zbuf, reach):
    """Returns how far inside the mesh's outline each pixel lies: 0 at the outline, 1 from `reach` pixels inwards."""
    height, width = zbuf.shape
    steps = np.empty((height, width), dtype=np.float32)  # distance to the background in chamfer steps
    for y in range(height):
        for x in range(width):
            d = np.float32(reach + 1)
            if zbuf[y, x] < 0:
                d = np.float32(0)
            else:
                if y > 0:
                    d = min(d, steps[y - 1, x] + 1)
                if x > 0:
                    d = min(d, steps[y, x - 1] + 1)
            steps[y, x] = d
    for y in range(height - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            d = steps[y, x]
            if y < height - 1:
                d = min(d, steps[y + 1, x] + 1)
            if x < width - 1:
                d = min(d, steps[y, x + 1] + 1)
            steps[y, x] = d
    for y in range(height):
        for x in range(width):
            steps[y, x] = min(max((steps[y, x] - 1) / reach, 0.0), 1.0)
    return steps


@njit(**KERNEL)
def bilinear(image, x, y):
    """Returns a grey image at a position in pixels (centres at .5), its border continued outwards."""
    px = min(max(x - np.float32(0.5), np.float32(0)), np.float32(image.shape[1] - 1))
    py = min(max(y - np.float32(0.5), np.float32(0)), np.float32(image.shape[0] - 1))
    x0, y0 = int(px), int(py)
    x1, y1 = min(x0 + 1, image.shape[1] - 1), min(y0 + 1, image.shape[0] - 1)
    fx, fy = px - x0, py - y0
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    return top * (1 - fy) + (image[y1, x0] * (1 - fx) + image[y1, x1] * fx) * fy


@njit(**KERNEL)
def sample(
    rgb, verts, normals, faces, point_face, point_bary, focal, principal, zbuf, inner, low, scale, mask, to_mask
):
    """Samples the photograph at points of the mesh: colours in 0..1 and weights of what is seen, 0..1."""
    n = point_face.shape[0]
    height, width = rgb.shape[0], rgb.shape[1]
    color = np.zeros((n, 3), dtype=np.float32)
    weight = np.zeros(n, dtype=np.float32)
    for i in range(n):
        a, b, c = faces[point_face[i], 0], faces[point_face[i], 1], faces[point_face[i], 2]
        wa, wb, wc = point_bary[i, 0], point_bary[i, 1], point_bary[i, 2]
        x = wa * verts[a, 0] + wb * verts[b, 0] + wc * verts[c, 0]
        y = wa * verts[a, 1] + wb * verts[b, 1] + wc * verts[c, 1]
        z = wa * verts[a, 2] + wb * verts[b, 2] + wc * verts[c, 2]
        nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
        ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
        nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
        u = x / z * focal + principal[0] - np.float32(0.5)
        v = y / z * focal + principal[1] - np.float32(0.5)
        if u < 0 or v < 0 or u > width - 1 or v > height - 1:
            continue
        u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
        if width < 2 or height < 2:
            continue
        fu, fv = u - u0, v - v0
        for k in range(3):
            top = rgb[v0, u0, k] * (1 - fu) + rgb[v0, u0 + 1, k] * fu
            bottom = rgb[v0 + 1, u0, k] * (1 - fu) + rgb[v0 + 1, u0 + 1, k] * fu
            color[i, k] = (top * (1 - fv) + bottom * fv) / 255.0
        length = math.sqrt((nx * nx + ny * ny + nz * nz) * (x * x + y * y + z * z))
        cosine = -(nx * x + ny * y + nz * z) / max(length, 1e-12)
        facing = min(max((cosine - COS_BLIND) / (COS_CLEAR - COS_BLIND), 0.0), 1.0)
        if facing <= 0:
            continue
        # Share of the four depths around the point behind which it does not lie, less towards the outline, where
        # the photograph mixes with what is behind the face.
        px = (u + np.float32(0.5) - low[0]) * scale - np.float32(0.5)
        py = (v + np.float32(0.5) - low[1]) * scale - np.float32(0.5)
        px0, py0 = math.floor(px), math.floor(py)
        seen = 0.0
        for dy in range(2):
            for dx in range(2):
                column = min(max(px0 + dx, 0), zbuf.shape[1] - 1)
                row = min(max(py0 + dy, 0), zbuf.shape[0] - 1)
                share = (px - px0 if dx else 1 - (px - px0)) * (py - py0 if dy else 1 - (py - py0))
                nearest = zbuf[row, column]
                if z <= nearest + DEPTH_BIAS_MM / max(cosine, 0.2):
                    seen += share * inner[row, column]
        border = min(min(u, width - 1 - u), min(v, height - 1 - v))
        bare = bilinear(
            mask,
            to_mask[0, 0] * (u + np.float32(0.5)) + to_mask[0, 1] * (v + np.float32(0.5)) + to_mask[0, 2],
            to_mask[1, 0] * (u + np.float32(0.5)) + to_mask[1, 1] * (v + np.float32(0.5)) + to_mask[1, 2],
        )
        weight[i] = facing * facing * (3 - 2 * facing) * seen * min(border / 3.0, 1.0) * bare
    return color, weight


@njit(**KERNEL)
def complete(color, weight, mirror, gain):
    """Returns each point's colour completed from its mirror image times `gain`, and how sure it is, 0..1."""
    n = color.shape[0]
    mixed = np.empty((n, 3), dtype=np.float32)
    confidence = np.empty(n, dtype=np.float32)
    for i in range(n):
        m = mirror[i]
        opposite = weight[m] * (1 - weight[i]) if m >= 0 else np.float32(0)
        total = weight[i] + opposite
        scale = 1 / max(total, np.float32(1e-6))
        for k in range(3):
            across = color[m, k] * gain[i, k] if m >= 0 else np.float32(0)
            mixed[i, k] = (weight[i] * color[i, k] + opposite * across) * scale
        confidence[i] = total
    return mixed, confidence


@njit(**KERNEL)
def scatter(texel, mixed, confidence, size):
    """Returns a texture of premultiplied colours and weights with these texels set."""
    canvas = np.zeros((size * size, 4), dtype=np.float32)
    for i in range(texel.shape[0]):
        for k in range(3):
            canvas[texel[i], k] = mixed[i, k] * confidence[i]
        canvas[texel[i], 3] = confidence[i]
    return canvas.reshape(size, size, 4)


@njit(**KERNEL)
def light_ratio(cell, color, weight, mirror, side):
    """Returns, per cell of a coarse grid, the mean log ratio of each point's colour to its mirror image's.

    Premultiplied by the weight of points that are seen on both sides, which is the fourth channel, at most 1.
    """
    grid = np.zeros((side * side, 4), dtype=np.float32)
    floor = np.float32(0.02)
    for i in range(cell.shape[0]):
        m = mirror[i]
        if m < 0:
            continue
        both = weight[i] * weight[m]
        for k in range(3):
            grid[cell[i], k] += both * np.log((color[i, k] + floor) / (color[m, k] + floor))
        grid[cell[i], 3] += both
    for j in range(side * side):
        if grid[j, 3] > 1:
            for k in range(4):
                grid[j, k] /= grid[j, 3] if k < 3 else np.float32(1)
            grid[j, 3] = 1
    return grid.reshape(side, side, 4)


@njit(**KERNEL)
def unshade(
    color,
    weight,
    mirror,
    faces,
    point_face,
    point_bary,
    shading,
    albedo,
    dark,
    bright,
    to_linear,
    to_srgb,
    texel,
    size,
):
    """Returns a texture of albedo, sRGB 0..1, with weight 1 where a point lies: the photograph over its shading.

    What the photograph does not see, or sees only in a shadow that falls below `bright` towards `dark`, comes from
    the mirrored point, since skin is alike on both sides, and else from the albedo of the vertices. `to_linear`
    tabulates linear light by sRGB, `to_srgb` sRGB by the root of linear light.
    """
    n = color.shape[0]
    bare = np.empty((n, 3), dtype=np.float32)
    sure = np.empty(n, dtype=np.float32)
    last = np.float32(to_linear.shape[0] - 1)
    for i in range(n):
        f = point_face[i]
        lightness = np.float32(0)
        for k in range(3):
            light = np.float32(0)
            for j in range(3):
                light += point_bary[i, j] * shading[faces[f, j], k]
            lightness += light / np.float32(3)
            linear = to_linear[int(color[i, k] * last + np.float32(0.5))]
            bare[i, k] = min(linear / max(light, dark), np.float32(1))
        sure[i] = weight[i] * min(max((lightness - dark) / (bright - dark), np.float32(0)), np.float32(1))
    canvas = np.zeros((size * size, 4), dtype=np.float32)
    for i in range(n):
        f, m = point_face[i], mirror[i]
        opposite = sure[m] * (1 - sure[i]) if m >= 0 else np.float32(0)
        rest = max(1 - sure[i] - opposite, np.float32(0))
        for k in range(3):
            value = sure[i] * bare[i, k]
            if m >= 0:
                value += opposite * bare[m, k]
            for j in range(3):
                value += rest * point_bary[i, j] * albedo[faces[f, j], k]
            root = math.sqrt(min(max(value, 0.0), 1.0))
            canvas[texel[i], k] = to_srgb[int(root * last + np.float32(0.5))]
        canvas[texel[i], 3] = 1
    return canvas.reshape(size, size, 4)


@njit(**KERNEL)
def pull(fine):
    """Returns the next coarser level of premultiplied colours: sums of 2 x 2, weights cut off at 1."""
    size = fine.shape[0] // 2
    coarse = np.zeros((size, size, 4), dtype=np.float32)
    for y in range(size):
        for x in range(size):
            for k in range(4):
                coarse[y, x, k] = (
                    fine[2 * y, 2 * x, k]
                    + fine[2 * y, 2 * x + 1, k]
                    + fine[2 * y + 1, 2 * x, k]
                    + fine[2 * y + 1, 2 * x + 1, k]
                )
            excess = coarse[y, x, 3]
            if excess > 1:
                for k in range(4):
                    coarse[y, x, k] /= excess
    return coarse


@njit(**KERNEL)
def push(fine, coarse):
    """Fills what the finer level lacks from the coarser one, interpolated between its centres."""
    size = fine.shape[0]
    out = np.empty((size, size, 3), dtype=np.float32)
    last = coarse.shape[0] - 1
    for y in range(size):
        y0 = (y - 1) // 2
        fy = np.float32(0.75) if y % 2 == 0 else np.float32(0.25)
        ya, yb = max(y0, 0), min(y0 + 1, last)
        for x in range(size):
            lack = 1 - fine[y, x, 3]
            if lack <= 0:
                for k in range(3):
                    out[y, x, k] = fine[y, x, k]
                continue
            x0 = (x - 1) // 2
            fx = np.float32(0.75) if x % 2 == 0 else np.float32(0.25)
            xa, xb = max(x0, 0), min(x0 + 1, last)
            for k in range(3):
                top = coarse[ya, xa, k] * (1 - fx) + coarse[ya, xb, k] * fx
                bottom = coarse[yb, xa, k] * (1 - fx) + coarse[yb, xb, k] * fx
                out[y, x, k] = fine[y, x, k] + lack * (top * (1 - fy) + bottom * fy)
    return out


@njit(**KERNEL)
def paint_vertices(pix_to_face, bary, faces, values, image):
    """Overwrites the pixels of `image` that the mesh covers with values interpolated between its vertices."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            f = pix_to_face[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            for k in range(image.shape[2]):
                image[y, x, k] = (
                    bary[y, x, 0] * values[a, k] + bary[y, x, 1] * values[b, k] + bary[y, x, 2] * values[c, k]
                )


@njit(**KERNEL)
def paint_texture(pix_to_face, bary, faces, uv, texture, image):
    """Overwrites the pixels of `image` that the mesh covers with the nearest texels."""
    side = texture.shape[0]
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            f = pix_to_face[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            u = bary[y, x, 0] * uv[a, 0] + bary[y, x, 1] * uv[b, 0] + bary[y, x, 2] * uv[c, 0]
            v = bary[y, x, 0] * uv[a, 1] + bary[y, x, 1] * uv[b, 1] + bary[y, x, 2] * uv[c, 1]
            column = min(max(int(u * side), 0), side - 1)
            row = min(max(int((1 - v) * side), 0), side - 1)
            for k in range(3):
                image[y, x, k] = texture[row, column, k]
