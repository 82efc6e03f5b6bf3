"""Training curves as a self-contained SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_COLOURS = ("#1f6fb2", "#c2571a", "#2b8a3e", "#8a3ea8", "#b23a48", "#4a5560")


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / 4 for i in range(5)]


def _panel(title: str, x: Sequence[float], lines: Mapping[str, Sequence[float]], top: int) -> list[str]:
    """Returns one plot's SVG elements, 640 wide and 260 high, starting `top` pixels down."""
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    high = high if high > low else low + 1.0
    first, last = x[0], x[-1] if x[-1] > x[0] else x[0] + 1.0

    def place(px: float, value: float) -> str:
        return f"{60 + 460 * (px - first) / (last - first):.1f},{top + 220 - 180 * (value - low) / (high - low):.1f}"

    out = [f'<text x="60" y="{top + 24}" font-size="14">{escape(title)}</text>']
    for tick in _ticks(low, high):
        y = place(first, tick).split(",")[1]
        out.append(f'<line x1="60" x2="520" y1="{y}" y2="{y}" stroke="#ddd"/>')
        out.append(f'<text x="54" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in _ticks(first, last):
        px = place(tick, low).split(",")[0]
        out.append(f'<text x="{px}" y="{top + 238}" text-anchor="middle">{tick:.0f}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(place(px, value) for px, value in zip(x, line, strict=True))
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>')
        out.append(f'<text x="530" y="{top + 50 + 16 * number}" fill="{colour}">{escape(name)}</text>')
    return out


def draw_curves(x: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns an SVG document with one plot per panel, one below the other.

    Args:
        x: abscissa that all lines share, increasing, say epochs.
        panels: for each plot's title its lines by name, each as long as `x`.
    """
    height = 260 * len(panels)
    body = [line for i, (title, lines) in enumerate(panels.items()) for line in _panel(title, x, lines, 260 * i)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" viewBox="0 0 640 {height}" '
        'font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, f'<rect width="640" height="{height}" fill="white"/>', *body, "</svg>"])
