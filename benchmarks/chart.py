"""Pictures of points as SVG; the same points give the same text."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 440, 64, 56, 28, 300
GAP = 14  # pixels of a number or a line of the names, which are listed beside the picture
TICKS, FEW = (1, 1.5, 2, 3, 4, 5, 7), (1, 3)  # of every power of ten, and where there are more than one and a half


@dataclass(frozen=True)
class Point:
    """A named point of positive coordinates."""

    name: str
    x: float
    y: float
    colour: str = "steelblue"


def write(path: Path, points: Sequence[Point], x: str, y: str, lines: Sequence[Sequence[int]] = ()) -> None:
    """Write points on two logarithmic axes; ``lines`` are indices of points that are joined."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn(points, x, y, lines), encoding="utf-8")


def drawn(points: Sequence[Point], x: str, y: str, lines: Sequence[Sequence[int]] = ()) -> str:
    across, up = _axis([p.x for p in points]), _axis([p.y for p in points])
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    at = [(LEFT + _place(p.x, across) * (right - LEFT), base - _place(p.y, up) * (base - TOP)) for p in points]
    parts = [f"<path d='M{LEFT},{TOP}V{base}H{right}' fill='none' stroke='gray'/>"]
    for value in _ticks(across):
        a = LEFT + _place(value, across) * (right - LEFT)
        parts.append(f"<path d='M{a:.1f},{base}v5' stroke='gray'/>{_text(a, base + 18, f'{value:g}', 'middle')}")
    for value in _ticks(up):
        b = base - _place(value, up) * (base - TOP)
        parts.append(f"<path d='M{LEFT},{b:.1f}h-5' stroke='gray'/>{_text(LEFT - 8, b + 4, f'{value:g}', 'end')}")
    for line in lines:
        corners = " ".join(f"{at[i][0]:.1f},{at[i][1]:.1f}" for i in line)
        parts.append(f"<polyline points='{corners}' fill='none' stroke='silver'/>")
    used: list[tuple[float, float]] = []
    for i, ((a, b), point) in enumerate(zip(at, points, strict=True)):
        parts.append(f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{point.colour}'/>")
        c = a + 5
        while any(abs(c - d) < GAP and abs(b - e) < GAP for d, e in used):  # numbers do not cover one another
            c += GAP
        used.append((c, b))
        parts += [_text(c, b - 5, f"{i + 1}"), _text(right + 20, TOP + GAP * (i + 1), f"{i + 1}  {point.name}")]
    parts += [_text((LEFT + right) / 2, HEIGHT - 12, x, "middle"), _text(8, TOP - 8, y)]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"font-family='sans-serif' font-size='11'><rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>"
        + "\n".join(parts)
        + "</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{html.escape(text)}</text>"


def _axis(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.log(min(values)), math.log(max(values))
    edge = 0.05 * (high - low) or 0.1
    return low - edge, high + edge


def _place(value: float, axis: tuple[float, float]) -> float:
    return (math.log(value) - axis[0]) / (axis[1] - axis[0])


def _ticks(axis: tuple[float, float]) -> list[float]:
    low, high = (math.exp(v) for v in axis)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = TICKS if high < 30 * low else FEW
    return [m * 10.0**k for k in powers for m in ticks if low <= m * 10.0**k <= high]
