"""Draws docs/flow.svg, the way of a face through the packages of raylib: `python docs/flow.py`."""

from pathlib import Path

STAGES = (
    ("photographs", "folder, bucket, archive", ""),
    ("detection", "faces, 68 landmarks, crops", "raylib/detection"),
    ("segmentation", "label of each pixel", "raylib/segmentation"),
    ("fitting", "landmarks to pose and shape", "raylib/fitting"),
    ("regressor", "corrections, albedo, light", "raylib/regressor"),
    ("refinement", "gradient steps (--refine)", "raylib/refinement"),
    ("texture", "colours, preview pictures", "raylib/texture"),
    ("meshes and rows", "GLB, OBJ, Parquet, report", ""),
)
"""The stages in turn: title, what happens, and the package, empty for files."""

BASIS = ("morphable", "render", "lighting", "geometry", "kernels")
"""Packages that all stages stand on."""

SPREAD = (
    ("reconstruction", "spreads the stages over Ray"),
    ("training", "trains segmentation and regressor"),
    ("synthesis", "makes faces with known truth"),
    ("evaluation", "compares results with truth"),
    ("report", "shows runs in a browser"),
)
"""Packages around the flow."""

WIDTH, HEIGHT, COLUMNS, ROWS, BOX, GAP = 980, 420, 4, 2, (214, 66), (28, 34)


def box(x: float, y: float, width: float, height: float, fill: str, title: str, *lines: str) -> str:
    """A rounded rectangle with a title and lines below it."""
    middle, first = x + width / 2, y + height / 2 + 5 - 10 * len(lines)
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{fill}" stroke="#445"/>'
        f'<text x="{middle}" y="{first}" font-size="16" font-weight="600">{title}</text>'
        + "".join(
            f'<text x="{middle}" y="{first + 21 + 17 * n}" font-size="13" fill="#334">{line}</text>'
            for n, line in enumerate(lines)
        )
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head at its end."""
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="#445" stroke-width="2" marker-end="url(#head)"/>'


def drawing() -> str:
    """The picture as SVG text."""
    left = (WIDTH - COLUMNS * BOX[0] - (COLUMNS - 1) * GAP[0]) / 2
    parts = []
    for number, (title, line, package) in enumerate(STAGES):
        row, column = divmod(number, COLUMNS)
        x, y = left + column * (BOX[0] + GAP[0]), 20 + row * (BOX[1] + GAP[1])
        parts.append(box(x, y, *BOX, "#d8e8ff" if package else "#fff3d0", title, line))
        if column + 1 < COLUMNS:
            parts.append(arrow(x + BOX[0], y + BOX[1] / 2, x + BOX[0] + GAP[0] - 3, y + BOX[1] / 2))
        elif row + 1 < ROWS:
            below = y + BOX[1] + GAP[1] / 2
            turn = f"M{x + BOX[0] / 2} {y + BOX[1]}V{below}H{left + BOX[0] / 2}V{y + BOX[1] + GAP[1] - 3}"
            parts.append(f'<path d="{turn}" fill="none" stroke="#445" stroke-width="2" marker-end="url(#head)"/>')
    top = 20 + ROWS * (BOX[1] + GAP[1])
    standing = f"all stand on {', '.join(BASIS)}"
    parts.append(box(left, top, WIDTH - 2 * left, 56, "#e6f4e0", "foundations", standing))
    top += 56 + 40
    parts.append(f'<text x="{WIDTH / 2}" y="{top - 12}" font-size="14" fill="#334">around the flow</text>')
    width = (WIDTH - 2 * left - (len(SPREAD) - 1) * 10) / len(SPREAD)
    for number, (title, line) in enumerate(SPREAD):
        words, half = line.split(), len(line.split()) // 2 + 1
        lines = (" ".join(words[:half]), " ".join(words[half:]))
        parts.append(box(left + number * (width + 10), top, width, 80, "#f1e6fa", title, *lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'text-anchor="middle">\n<title>The way of a face from a photograph to a mesh</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#445"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "flow.svg").write_text(drawing())
