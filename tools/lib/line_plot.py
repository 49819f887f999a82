"""Small line plots as SVG: a few points by a setting's values, side by side. Text is text, so no font is read here."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 330, 230, 52, 34, 44, 20
COLOURS = ("#1f6feb", "#d1582b", "#2a9d6f")
Panel = tuple[str, dict[str, list[tuple[object, float]]]]


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to `most` or past it, some five of them."""
    step = 1e-3
    for factor in (2, 2.5, 2) * 12:
        if most / step <= 4.5:
            break
        step *= factor
    return [round(step * index, 6) for index in range(math.ceil(most / step) + 1)]


def short(number: float) -> str:
    return f"{number:,.3g}" if number < 1000 else f"{number:,.0f}"


def panel(title: str, lines: dict[str, list[tuple[object, float]]], key: str, left: int) -> list[str]:
    """One panel. Values are names, evenly spaced: what is set is rarely evenly spaced itself."""
    names = list(dict.fromkeys(name for points in lines.values() for name, _ in points))
    scale = ticks(max((value for points in lines.values() for _, value in points), default=1.0) or 1.0)
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - 12, HEIGHT - BOTTOM, TOP
    at = {name: (x0 + x1) / 2 if len(names) == 1 else x0 + 14 + index * (x1 - x0 - 28) / (len(names) - 1) for index, name in enumerate(names)}

    def height(value: float) -> float:
        return y0 - value / scale[-1] * (y0 - y1)

    out = [f'<text x="{x0}" y="18" class="t">{escape(title)}</text>']
    for tick in scale:
        out.append(f'<line x1="{x0}" x2="{x1}" y1="{height(tick):.1f}" y2="{height(tick):.1f}" class="g"/>')
        out.append(f'<text x="{x0 - 6}" y="{height(tick) + 4:.1f}" class="n" text-anchor="end">{short(tick)}</text>')
    for name in names:
        out.append(f'<text x="{at[name]:.1f}" y="{y0 + 16}" class="n" text-anchor="middle">{escape(str(name))}</text>')
    out.append(f'<text x="{(x0 + x1) / 2}" y="{HEIGHT - 8}" class="n" text-anchor="middle">{escape(key)}</text>')
    for index, (label, points) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{at[name]:.1f},{height(value):.1f}" for name, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{at[name]:.1f}" cy="{height(value):.1f}" r="3" fill="{colour}"><title>{short(value)}</title></circle>' for name, value in points]
        if len(lines) > 1:
            out.append(f'<text x="{x1}" y="{TOP - 2 + 13 * index}" class="n" text-anchor="end" style="fill:{colour}">{escape(label)}</text>')
    return out


def svg(key: str, panels: list[Panel]) -> str:
    width = len(panels) * WIDTH + (len(panels) - 1) * GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" role="img">',
        "<style>text{font-family:sans-serif;fill:#333}.t{font-size:13px;font-weight:600}.n{font-size:11px}.g{stroke:#ddd}</style>",
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
    ]
    for index, (title, lines) in enumerate(panels):
        out += panel(title, lines, key, index * (WIDTH + GAP))
    return "\n".join([*out, "</svg>"]) + "\n"
