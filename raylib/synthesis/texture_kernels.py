"""The kernel that paints a face's albedo texture."""

import math

import numpy as np
from numba import njit

from raylib.kernels.threads import KERNEL

# Columns of the atlas's maps and channels of its noise; see `atlas.CHANNELS` and `atlas.NOISES`.
(
    _EYE, _UPPER_LIP, _LOWER_LIP, _INNER_MOUTH, _BROW_ALONG, _BROW_ACROSS, _LID_GAP, _LID_UPPER, _MOUSTACHE,
    _CHIN_BEARD, _CHEEK_BEARD, _FLUSH, _UNDER_EYE, _NOSTRIL, _CREASE, _FOREHEAD, _RIM, _LIP_LINE,
) = range(18)  # fmt: skip
_PORES, _MOTTLE, _PATCHES, _STRANDS, _FRECKLES = range(5)
_RED, _GREEN, _BLUE = 0, 1, 2
_FILL = 0.62  # share of the line between two lid or lip vertices at which the region begins


@njit(**KERNEL)
def _smooth(value, low, high):
    t = min(max((value - low) / (high - low), np.float32(0)), np.float32(1))
    return t * t * (3 - 2 * t)


@njit(**KERNEL)
def _line_at(line, x):
    """Returns y of a line of points with rising x, level beyond its ends."""
    n = line.shape[0]
    if x <= line[0, 0]:
        return line[0, 1]
    for i in range(1, n):
        if x <= line[i, 0]:
            t = (x - line[i - 1, 0]) / max(line[i, 0] - line[i - 1, 0], np.float32(1e-3))
            return line[i - 1, 1] + t * (line[i, 1] - line[i - 1, 1])
    return line[n - 1, 1]


@njit(**KERNEL)
def _skin(table, row, column, out):
    last = table.shape[0] - 1
    r, c = min(max(row, np.float32(0)), np.float32(last)), min(max(column, np.float32(0)), np.float32(last))
    r0, c0 = min(int(r), last - 1), min(int(c), last - 1)
    fr, fc = r - r0, c - c0
    for k in range(3):
        top = table[r0, c0, k] * (1 - fc) + table[r0, c0 + 1, k] * fc
        out[k] = top * (1 - fr) + (table[r0 + 1, c0, k] * (1 - fc) + table[r0 + 1, c0 + 1, k] * fc) * fr


@njit(**KERNEL)
def paint(
    look, table, base, texel, side, maps, position, faces, face, bary, verts, noise, offset, eyes, gaze, lips, canvas
):
    """Writes linear RGB and the share of hair (brows) of every texel that the face covers.

    Args:
        look: `skin.SkinLook`.
        table: linear RGB over melanin and blood.
        base: (n, 3) albedo from a photograph instead of drawn skin; empty without.
        texel, side, maps, position, faces, face, bary, noise: of the atlas and the prior.
        verts: the face's vertices, for what depends on its pose of lids and lips.
        offset: (2,) shift of the noise tiles in texels.
        eyes: (2, 3) centres of the eyeballs.
        gaze: (2, 3) unit vectors out of them.
        lips: (2, 5, 2) inner edges of the upper and lower lip, x and y, x rising.
        canvas: (side * side, 4).
    """
    color = np.empty(3, np.float32)
    for i in range(texel.shape[0]):
        t = texel[i]
        y0, x0 = (t // side + offset[0]) % side, (t % side + offset[1]) % side
        pores, mottle, patches = noise[y0, x0, _PORES], noise[y0, x0, _MOTTLE], noise[y0, x0, _PATCHES]
        a, b, c = faces[face[i], 0], faces[face[i], 1], faces[face[i], 2]
        px = bary[i, 0] * verts[a, 0] + bary[i, 1] * verts[b, 0] + bary[i, 2] * verts[c, 0]
        py = bary[i, 0] * verts[a, 1] + bary[i, 1] * verts[b, 1] + bary[i, 2] * verts[c, 1]
        pz = bary[i, 0] * verts[a, 2] + bary[i, 1] * verts[b, 2] + bary[i, 2] * verts[c, 2]
        m = maps[i]
        fade = m[_RIM]
        lips_here = _smooth(m[_UPPER_LIP] + m[_LOWER_LIP] + m[_INNER_MOUTH], np.float32(0.35), np.float32(0.95))
        hair = np.float32(0)

        # Skin: melanin and blood vary from place to place, freckles are melanin in spots.
        freckle = np.float32(0)
        reach = look.freckles * (
            0.4
            + 0.6 * _smooth(np.float32(30) - abs(position[i, 1] + np.float32(22)), np.float32(-30), np.float32(15))
        )
        rank = noise[y0, x0, _FRECKLES]
        if rank < reach:
            freckle = _smooth(1 - rank / max(reach, np.float32(1e-3)), np.float32(0), np.float32(0.5)) * fade
        row = look.melanin + fade * (look.uneven * (0.9 * patches + 0.35 * mottle)) + look.freckle_depth * freckle
        row += look.tan * (m[_FOREHEAD] + 0.5 * m[_FLUSH]) * fade
        row += look.under_eye * m[_UNDER_EYE]
        column = look.blood + fade * (look.blotches * (0.6 * patches + 0.9 * mottle) + look.flush * m[_FLUSH])
        column += 0.6 * look.under_eye * m[_UNDER_EYE] * 2
        spot = noise[(y0 * 2 + 77) % side, (x0 * 2 + 31) % side, _FRECKLES]
        if spot < look.blemishes:
            column += 9 * _smooth(1 - spot / look.blemishes, np.float32(0), np.float32(1)) * fade * (1 - lips_here)
        column += look.lip_blood * lips_here
        row += look.lip_melanin * lips_here
        if base.shape[0]:
            for k in range(3):
                color[k] = base[i, k]
            lips_here = np.float32(0)
        else:
            _skin(table, row, column, color)
            shade = 1 + look.pores * pores * fade * (1 - 0.6 * lips_here)
            shade *= 1 - (np.float32(0.10) + look.age * 0.16) * fade * math.exp(
                -0.5 * (m[_CREASE] / np.float32(1.8)) ** 2
            )
            wave = math.sin((position[i, 1] + 1.5 * patches + 0.02 * position[i, 0] ** 2 * 0.2) * look.furrow)
            shade *= 1 - look.age * 0.10 * m[_FOREHEAD] * fade * max(wave - np.float32(0.8), np.float32(0)) * 5
            shade *= 1 - look.age * 0.12 * _smooth(
                np.float32(3.0) - abs(m[_LID_GAP] - np.float32(6.5)), np.float32(0), np.float32(3)
            ) * (1 - m[_LID_UPPER])
            # The fold above the lid, and the socket around the eye.
            fold = math.exp(-0.5 * ((m[_LID_GAP] - look.lid_fold) / np.float32(0.7)) ** 2) * m[_LID_UPPER]
            socket = (1 - _smooth(m[_LID_GAP], np.float32(0), np.float32(11))) * (
                np.float32(0.35) + np.float32(0.65) * m[_LID_UPPER]
            )
            shade *= (1 - np.float32(0.30) * fold) * (1 - look.socket * socket)
            # Fine upright lines on the lips, and the shade of their outline.
            stripes = noise[(y0 // 3) % side, x0, _STRANDS]
            shade *= 1 + 0.07 * stripes * lips_here
            tint = lips_here * look.lipstick
            for k in range(3):
                color[k] = color[k] * shade * (1 - tint) + tint * look.lipstick_color[k] * (0.85 + 0.05 * stripes)
        nostril = 0.75 * _smooth(m[_NOSTRIL], np.float32(0.2), np.float32(0.9)) * (base.shape[0] == 0)
        color[_RED] *= 1 - nostril
        color[_GREEN] *= 1 - nostril * np.float32(1.08)
        color[_BLUE] *= 1 - nostril * np.float32(1.1)

        if base.shape[0] == 0:
            # Beard: shaven roots darken the skin a little and bluishly, hair covers it.
            area = look.moustache * m[_MOUSTACHE]
            area = max(area, max(look.chin_beard * m[_CHIN_BEARD], look.cheek_beard * m[_CHEEK_BEARD]))
            if area > 0.01:
                bristle = noise[(y0 + 3 * x0 // 2) % side, x0, _STRANDS] * np.float32(0.6) + pores * np.float32(0.5)
                cover = (
                    _smooth(area * 1.35 + 0.07 * mottle + 0.16 * bristle, np.float32(0.2), np.float32(1.1))
                    * look.beard
                )
                cover = (
                    min(cover + look.stubble * area * (0.75 + 0.25 * pores), np.float32(0.97))
                    * (1 - lips_here)
                    * fade
                )
                for k in range(3):
                    color[k] = color[k] * (1 - cover) + cover * look.beard_color[k] * (1 + 0.22 * bristle)
            # Brows: strokes that rise from the nose and lie down towards the temple.
            along, across = m[_BROW_ALONG], m[_BROW_ACROSS]
            if abs(across) < 18 and along > -0.25:
                width = look.brow_width * (
                    0.75
                    + 0.5 * _smooth(along, np.float32(0), np.float32(0.3))
                    - 0.75 * _smooth(along, np.float32(0.55), np.float32(1.05))
                )
                inner = _smooth(along, np.float32(-0.06), np.float32(0.14))
                reach = abs(across - look.brow_lift) / max(width, np.float32(0.3))
                lean = np.float32(8) + np.float32(26) * along
                sx = (
                    int(look.strokes * (along * lean * 1.6 + across * np.float32(0.9)) * side / np.float32(190))
                    % side
                )
                sy = int((across - along * np.float32(14)) * np.float32(0.6) * side / np.float32(190)) % side
                stroke = noise[sy, sx, _STRANDS]
                cover = _smooth(1.12 - reach + 0.22 * stroke, np.float32(0), np.float32(0.75)) * inner
                cover *= 1 - _smooth(along, np.float32(0.98), np.float32(1.06))
                cover *= look.brow * (0.82 + 0.14 * stroke)
                cover = min(max(cover, np.float32(0)), np.float32(0.96))
                hair = cover
                for k in range(3):
                    color[k] = color[k] * (1 - cover) + cover * look.brow_color[k] * (1 + 0.15 * stroke)

        elif abs(m[_BROW_ACROSS] - look.brow_lift) < look.brow_width and 0 < m[_BROW_ALONG] < 1:
            hair = np.float32(1)  # the photograph's own brow

        # Eyes.
        e = m[_EYE]
        inside = _smooth(e, np.float32(_FILL), np.float32(0.98))
        if inside > 0:
            k_eye = 1 if px > 0 else 0
            dx, dy, dz = px - eyes[k_eye, 0], py - eyes[k_eye, 1], pz - eyes[k_eye, 2]
            length = max(math.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-3))
            gx, gy, gz = gaze[k_eye, 0], gaze[k_eye, 1], gaze[k_eye, 2]
            cosine = min((dx * gx + dy * gy + dz * gz) / length, np.float32(1))
            angle = math.acos(cosine)
            corner = _smooth(abs(abs(px) - abs(eyes[k_eye, 0])), np.float32(5), np.float32(13))
            red = look.eye_red * (0.3 + 0.7 * corner) * (1 + 0.5 * mottle)
            white0, white1, white2 = (
                np.float32(0.42),
                np.float32(0.39) * (1 - 0.35 * red),
                np.float32(0.36) * (1 - 0.4 * red),
            )
            around = math.atan2(dy, dx)
            radius = look.iris_radius
            iris = 1 - _smooth(angle, radius - np.float32(0.045), radius + np.float32(0.02))
            pupil = 1 - _smooth(angle, look.pupil_radius - np.float32(0.03), look.pupil_radius + np.float32(0.03))
            limbus = _smooth(angle, radius - np.float32(0.16), radius)
            fibre = noise[int(angle * 40) % side, int((around + 4) * 40) % side, _STRANDS]
            for k in range(3):
                ring = look.iris_color[k] * (1 + 0.25 * fibre) + look.iris_inner[k] * (
                    1 - _smooth(angle, look.pupil_radius, look.pupil_radius + np.float32(0.17))
                )
                ring *= 1 - 0.65 * limbus
                ring = ring * (1 - pupil) + pupil * np.float32(0.006)
                white = white0 if k == 0 else (white1 if k == 1 else white2)
                value = white * (1 - iris) + iris * max(ring, np.float32(0.004))
                # The lids' shade on the ball.
                lid = _smooth(m[_LID_GAP], np.float32(-0.3), np.float32(1.6) + 2.4 * m[_LID_UPPER])
                value *= np.float32(0.32) + np.float32(0.58) * lid
                color[k] = color[k] * (1 - inside) + inside * value
            hair *= 1 - inside
        # Lashes darken the lids' edge, above more than below.
        if m[_LID_GAP] < 4 and inside < 1:
            upper = m[_LID_UPPER]
            edge = math.exp(-0.5 * (m[_LID_GAP] / (np.float32(0.75) + np.float32(0.95) * upper)) ** 2)
            cover = edge * (look.lashes * (0.45 + 0.55 * upper)) * (1 - inside)
            for k in range(3):
                color[k] *= 1 - min(cover, np.float32(0.95))
        # The line where the lips meet.
        if lips_here > 0 and lips[0, 0, 0] < px < lips[0, 4, 0]:
            seam = max(max(py - _line_at(lips[0], px), _line_at(lips[1], px) - py), np.float32(0))
            cover = np.float32(0.6) * math.exp(-((seam / np.float32(1.1)) ** 2)) * lips_here
            for k in range(3):
                color[k] *= 1 - cover
        # The inside of the mouth: teeth below the upper lip's edge and above the lower's, tongue and dark between.
        mouth = m[_INNER_MOUTH]
        if mouth > 0.02:
            top, bottom = _line_at(lips[0], px), _line_at(lips[1], px)
            gap = top - bottom
            below, above = top - py, py - bottom
            open_ = _smooth(gap, np.float32(1.0), np.float32(4.0))
            cover = _smooth(mouth, np.float32(0.02), np.float32(0.3))
            tongue = (
                _smooth(gap, np.float32(9), np.float32(18))
                * (1 - _smooth(abs(px), np.float32(9), np.float32(17)))
                * (1 - _smooth(above, np.float32(4), gap * np.float32(0.6)))
            )
            upper_teeth = (
                open_
                * look.upper_teeth
                * (1 - _smooth(below, look.tooth_length - np.float32(1.0), look.tooth_length + np.float32(0.4)))
            )
            lower_teeth = open_ * look.lower_teeth * (1 - _smooth(above, np.float32(2.6), np.float32(3.8)))
            tooth = max(upper_teeth, lower_teeth)
            tooth *= 1 - _smooth(abs(px), np.float32(15), np.float32(24))
            width = np.float32(8.2) if abs(px) < 8.2 else np.float32(6.6)
            between = abs(abs(px) / width - math.floor(abs(px) / width + np.float32(0.5))) * width
            tooth_shade = np.float32(0.62) + np.float32(0.38) * _smooth(between, np.float32(0.0), np.float32(0.75))
            tooth_shade *= 1 - 0.55 * _smooth(abs(px), np.float32(6), np.float32(21))
            for k in range(3):
                inner = np.float32(0.030) if k == 0 else np.float32(0.008)
                inner += tongue * (np.float32(0.20) if k == 0 else np.float32(0.055))
                inner = inner * (1 - tooth) + tooth * look.tooth_color[k] * tooth_shade
                color[k] = color[k] * (1 - cover) + cover * inner
        for k in range(3):
            canvas[t, k] = min(max(color[k], np.float32(0.002)), np.float32(0.98))
        canvas[t, 3] = hair
