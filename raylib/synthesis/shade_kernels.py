"""Kernels that turn rasterised samples into light, labels and maps."""

import math

import numpy as np
from numba import njit

from raylib.kernels.threads import KERNEL

_BACKGROUND, _HAIR, _EYES = np.uint8(0), np.uint8(1), np.uint8(3)
_BROW = np.float32(0.5)  # from this share of hair on a brow counts as hair


@njit(**KERNEL)
def gloss_of_vertices(normals, verts, eye, directions, colors, spread, shading, rough, strength, out):
    """Writes the highlight of each vertex: a Blinn-Phong lobe a source with Schlick's Fresnel term, and a soft sheen.

    Args:
        normals, verts: of the mesh.
        eye: (3,) where the camera stands.
        directions, colors, spread: of the sources; `colors` is (v, l, 3), less where one is hidden.
        shading: (v, 3) matte shading, which stands for what is around in the sheen.
        rough: (v,) angular spread of the surface's own highlight, radians.
        strength: (v,) factor.
        out: (v, 3).
    """
    for v in range(verts.shape[0]):
        vx, vy, vz = eye[0] - verts[v, 0], eye[1] - verts[v, 1], eye[2] - verts[v, 2]
        length = max(math.sqrt(vx * vx + vy * vy + vz * vz), np.float32(1e-6))
        vx, vy, vz = vx / length, vy / length, vz / length
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        facing = max(nx * vx + ny * vy + nz * vz, np.float32(0))
        sheen = (np.float32(0.012) + np.float32(0.06) * (1 - facing) ** 5) * strength[v]
        for k in range(3):
            out[v, k] = sheen * shading[v, k]
        for j in range(directions.shape[0]):
            lx, ly, lz = directions[j, 0], directions[j, 1], directions[j, 2]
            cosine = nx * lx + ny * ly + nz * lz
            if cosine <= 0 or facing <= 0:
                continue
            hx, hy, hz = vx + lx, vy + ly, vz + lz
            h = max(math.sqrt(hx * hx + hy * hy + hz * hz), np.float32(1e-6))
            half = (nx * hx + ny * hy + nz * hz) / h
            grazing = 1 - (vx * hx + vy * hy + vz * hz) / h
            fresnel = np.float32(0.028) + np.float32(0.972) * grazing**5
            width = rough[v] * rough[v] + np.float32(0.25) * spread[j] * spread[j]
            exponent = 1 / max(width, np.float32(1e-4))
            lobe = fresnel * cosine * (exponent + 2) / 8 * max(half, np.float32(0)) ** exponent * strength[v]
            for k in range(3):
                out[v, k] += colors[v, j, k] * lobe


@njit(**KERNEL)
def _texel(texture, u, v, out):
    side = texture.shape[0]
    x = min(max(u * side - np.float32(0.5), np.float32(0)), np.float32(side - 1.001))
    y = min(max((1 - v) * side - np.float32(0.5), np.float32(0)), np.float32(side - 1.001))
    x0, y0 = int(x), int(y)
    fx, fy = x - x0, y - y0
    for k in range(4):
        top = texture[y0, x0, k] * (1 - fx) + texture[y0, x0 + 1, k] * fx
        out[k] = top * (1 - fy) + (texture[y0 + 1, x0, k] * (1 - fx) + texture[y0 + 1, x0 + 1, k] * fx) * fy


@njit(**KERNEL)
def shade_head(
    pix,
    bary,
    faces,
    n_face,
    verts,
    normals,
    uv,
    texture,
    albedo,
    cloth,
    cloth_color,
    triangle_label,
    matte,
    scatter,
    gloss,
    eyes,
    eye_point,
    directions,
    colors,
    spread,
    shiny,
    light,
    beyond,
    label,
    normal,
    on_face,
):
    """Writes the samples that the head covers.

    Args:
        pix, bary: (h, w) triangle and (h, w, 3) place of each sample.
        faces, n_face: triangles, the face's first; number of the face's.
        verts, normals: (v, 3) of the mesh.
        uv, texture: of the face: linear RGB and the share of brow.
        albedo: (v, 3) of the rest of the head.
        cloth: (v,) how far the vertex lies below the neckline; cloth_color (3,).
        triangle_label: (f,).
        matte: (v, 3) shading by Lambert's law, with shadow.
        scatter: (v, 3) what light under the skin adds to it.
        gloss: (v, 3) highlights.
        eyes: (2, 3) centres of the eyeballs; eye_point (3,) where the camera stands.
        directions, colors, spread: of the sources of catch lights.
        shiny: whether there are catch lights.
        light, beyond: (h, w, 3) outputs: all light, and the part of it that is not matte, on the face only.
        label, normal, on_face: (h, w), (h, w, 3), (h, w) outputs.
    """
    rgba = np.empty(4, np.float32)
    for y in range(pix.shape[0]):
        for x in range(pix.shape[1]):
            f = pix[y, x]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb, wc = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            size = max(math.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-6))
            nx, ny, nz = nx / size, ny / size, nz / size
            normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = nx, ny, nz
            tag = triangle_label[f]
            if f < n_face:
                u = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0]
                v = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1]
                _texel(texture, u, v, rgba)
                on_face[y, x] = 1
                if rgba[3] > _BROW and tag != _EYES:
                    tag = _HAIR
                for k in range(3):
                    extra = wa * gloss[a, k] + wb * gloss[b, k] + wc * gloss[c, k]
                    extra *= 1 - np.float32(0.8) * rgba[3]
                    extra += rgba[k] * (wa * scatter[a, k] + wb * scatter[b, k] + wc * scatter[c, k])
                    shade = wa * matte[a, k] + wb * matte[b, k] + wc * matte[c, k]
                    beyond[y, x, k] = extra
                    light[y, x, k] = rgba[k] * shade + extra
                if shiny and triangle_label[f] == _EYES:
                    # The wet ball mirrors its surroundings sharply: the catch light.
                    px = wa * verts[a, 0] + wb * verts[b, 0] + wc * verts[c, 0]
                    py = wa * verts[a, 1] + wb * verts[b, 1] + wc * verts[c, 1]
                    pz = wa * verts[a, 2] + wb * verts[b, 2] + wc * verts[c, 2]
                    e = 1 if px > 0 else 0
                    bx, by, bz = px - eyes[e, 0], py - eyes[e, 1], pz - eyes[e, 2]
                    r = max(math.sqrt(bx * bx + by * by + bz * bz), np.float32(1e-6))
                    bx, by, bz = bx / r, by / r, bz / r
                    vx, vy, vz = eye_point[0] - px, eye_point[1] - py, eye_point[2] - pz
                    r = max(math.sqrt(vx * vx + vy * vy + vz * vz), np.float32(1e-6))
                    vx, vy, vz = vx / r, vy / r, vz / r
                    for j in range(directions.shape[0]):
                        hx, hy, hz = vx + directions[j, 0], vy + directions[j, 1], vz + directions[j, 2]
                        r = max(math.sqrt(hx * hx + hy * hy + hz * hz), np.float32(1e-6))
                        half = max((bx * hx + by * hy + bz * hz) / r, np.float32(0))
                        width = np.float32(0.045) ** 2 + np.float32(0.25) * min(spread[j], np.float32(0.5)) ** 2
                        lobe = np.float32(0.028) / 8 * (2 + 1 / width) * half ** (1 / width)
                        for k in range(3):
                            add = min(colors[j, k] * lobe, np.float32(1.2))
                            beyond[y, x, k] += add
                            light[y, x, k] += add
            else:
                cover = wa * cloth[a] + wb * cloth[b] + wc * cloth[c]
                dressed = cover > 0
                if dressed:
                    tag = _BACKGROUND
                for k in range(3):
                    colour = wa * albedo[a, k] + wb * albedo[b, k] + wc * albedo[c, k]
                    if dressed:
                        # The collar's edge is a darker seam.
                        colour = cloth_color[k] * (
                            np.float32(0.75) + np.float32(0.25) * min(cover / 4, np.float32(1))
                        )
                    shade = (
                        wa * (matte[a, k] + scatter[a, k])
                        + wb * (matte[b, k] + scatter[b, k])
                        + wc * (matte[c, k] + scatter[c, k])
                    )
                    extra = wa * gloss[a, k] + wb * gloss[b, k] + wc * gloss[c, k]
                    light[y, x, k] = colour * shade + (np.float32(0) if dressed else extra)
            label[y, x] = tag


@njit(**KERNEL)
def shade_hair(
    pix,
    bary,
    zbuf,
    faces,
    normals,
    strand,
    edge,
    matte,
    gloss,
    color,
    is_hair,
    curl,
    fray,
    noise,
    offset,
    light,
    beyond,
    label,
    normal,
    depth,
    on_face,
):
    """Writes the samples where hair or a hat lies before the head; strands leave gaps where the shell ends.

    Args:
        pix, bary, zbuf: of the shell's samples.
        faces, normals, strand, edge: of the shell.
        matte, gloss: (n, 3) shading and highlights of the shell's vertices.
        color: linear RGB.
        is_hair, curl, fray: of the style.
        noise: the atlas's tiles.
        offset: (2,) shift of the noise.
        light, beyond, label, normal, depth, on_face: as in `shade_head`; `depth` is negative where no head is.
    """
    side = noise.shape[0]
    scale = np.float32(side) / np.float32(190.0)
    for y in range(pix.shape[0]):
        for x in range(pix.shape[1]):
            f = pix[y, x]
            if f < 0 or (depth[y, x] >= 0 and depth[y, x] < zbuf[y, x]):
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            wa, wb, wc = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            u0, u1, u2 = strand[a, 0], strand[b, 0], strand[c, 0]
            # The last column meets the first.
            top = max(u0, max(u1, u2))
            if top - min(u0, min(u1, u2)) > 250:
                u0 += np.float32(502.65) if u0 < 250 else np.float32(0)
                u1 += np.float32(502.65) if u1 < 250 else np.float32(0)
                u2 += np.float32(502.65) if u2 < 250 else np.float32(0)
            u = wa * u0 + wb * u1 + wc * u2
            v = wa * strand[a, 1] + wb * strand[b, 1] + wc * strand[c, 1]
            left = wa * edge[a] + wb * edge[b] + wc * edge[c]
            tone = np.float32(1)
            lustre = np.float32(1)
            if is_hair:
                clump = noise[int(v * scale * 0.12 + offset[0]) % side, int(u * scale * 0.5 + offset[1]) % side, 1]
                wiggle = (
                    np.float32(1.5) * clump
                    + curl * 4 * noise[int(v * scale * 0.5) % side, int(u * scale * 0.4) % side, 1]
                )
                fine = noise[
                    int(v * scale * 0.35 + offset[0]) % side,
                    int((u + wiggle) * scale * np.float32(1.6) + offset[1]) % side,
                    3,
                ]
                coarse = noise[
                    int(v * scale * 0.15 + offset[1]) % side,
                    int((u + wiggle) * scale * np.float32(0.55) + offset[0]) % side,
                    3,
                ]
                rough = noise[int(v * scale + offset[1]) % side, int(u * scale + offset[0]) % side, 1]
                fine = fine * (1 - np.float32(0.6) * curl) + rough * np.float32(0.7) * curl
                if left < fray * (np.float32(0.55) + np.float32(0.45) * coarse + np.float32(0.3) * fine):
                    continue
                rough_tone = np.float32(1.1) - np.float32(0.9) * min(
                    color[1] * 2, np.float32(1)
                )  # fair hair is more even
                tone = (
                    1 + rough_tone * (np.float32(0.13) * fine + np.float32(0.20) * coarse) + np.float32(0.10) * clump
                )
                tone = max(tone, np.float32(0.25))
                lustre = max(np.float32(0.55) + np.float32(0.5) * fine + np.float32(0.4) * coarse, np.float32(0))
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            size = max(math.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-6))
            normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = nx / size, ny / size, nz / size
            for k in range(3):
                shade = wa * matte[a, k] + wb * matte[b, k] + wc * matte[c, k]
                extra = wa * gloss[a, k] + wb * gloss[b, k] + wc * gloss[c, k]
                light[y, x, k] = color[k] * tone * shade + extra * lustre
                beyond[y, x, k] = 0
            label[y, x] = _HAIR if is_hair else _BACKGROUND
            depth[y, x] = zbuf[y, x]
            on_face[y, x] = 0


@njit(**KERNEL)
def hair_gloss(verts, tangents, eye, directions, colors, spread, color, out):
    """Writes Kajiya and Kay's highlight of hair (SIGGRAPH 1989) at each vertex, white and hair-coloured."""
    for v in range(verts.shape[0]):
        vx, vy, vz = eye[0] - verts[v, 0], eye[1] - verts[v, 1], eye[2] - verts[v, 2]
        length = max(math.sqrt(vx * vx + vy * vy + vz * vz), np.float32(1e-6))
        for k in range(3):
            out[v, k] = 0
        for j in range(directions.shape[0]):
            hx, hy, hz = (
                vx / length + directions[j, 0],
                vy / length + directions[j, 1],
                vz / length + directions[j, 2],
            )
            h = max(math.sqrt(hx * hx + hy * hy + hz * hz), np.float32(1e-6))
            along = (tangents[v, 0] * hx + tangents[v, 1] * hy + tangents[v, 2] * hz) / h
            sine = math.sqrt(max(1 - along * along, np.float32(0)))
            sharp = 30 / (1 + 20 * spread[j] * spread[j])
            lobe = sine**sharp
            for k in range(3):
                out[v, k] += colors[v, j, k] * lobe * (np.float32(0.018) + np.float32(0.55) * color[k])


@njit(**KERNEL)
def resolve(
    light,
    beyond,
    label,
    normal,
    depth,
    on_face,
    background,
    n,
    out_light,
    out_beyond,
    out_label,
    out_normal,
    out_depth,
    out_face,
):
    """Averages n x n samples a pixel; a label is the most frequent, the front of the list among equals.

    Depth and normal are the means over the samples of surfaces, 0 where most samples see none.
    """
    count = np.empty(6, np.int32)
    samples = np.float32(n * n)
    for y in range(out_light.shape[0]):
        for x in range(out_light.shape[1]):
            count[:] = 0
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            more0, more1, more2 = np.float32(0), np.float32(0), np.float32(0)
            nx, ny, nz, z = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            hits, faces = 0, 0
            for dy in range(n):
                for dx in range(n):
                    sy, sx = y * n + dy, x * n + dx
                    count[label[sy, sx]] += 1
                    if depth[sy, sx] < 0:
                        red += background[y, x, 0]
                        green += background[y, x, 1]
                        blue += background[y, x, 2]
                        continue
                    hits += 1
                    faces += on_face[sy, sx]
                    red += light[sy, sx, 0]
                    green += light[sy, sx, 1]
                    blue += light[sy, sx, 2]
                    more0 += beyond[sy, sx, 0]
                    more1 += beyond[sy, sx, 1]
                    more2 += beyond[sy, sx, 2]
                    nx += normal[sy, sx, 0]
                    ny += normal[sy, sx, 1]
                    nz += normal[sy, sx, 2]
                    z += depth[sy, sx]
            out_light[y, x, 0], out_light[y, x, 1], out_light[y, x, 2] = (
                red / samples,
                green / samples,
                blue / samples,
            )
            out_beyond[y, x, 0], out_beyond[y, x, 1], out_beyond[y, x, 2] = (
                more0 / samples,
                more1 / samples,
                more2 / samples,
            )
            best = 0
            for k in range(6):
                if count[k] > count[best]:
                    best = k
            out_label[y, x] = best
            out_face[y, x] = faces == n * n
            seen = 2 * hits > n * n
            size = max(math.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-6))
            out_normal[y, x, 0] = nx / size if seen else np.float32(0)
            out_normal[y, x, 1] = ny / size if seen else np.float32(0)
            out_normal[y, x, 2] = nz / size if seen else np.float32(0)
            out_depth[y, x] = z / hits if seen else np.float32(0)
