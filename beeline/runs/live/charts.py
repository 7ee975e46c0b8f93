"""Line charts as SVG from a template: a chart takes a millisecond, and matplotlib need not be imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

WIDTH, HEIGHT = 440.0, 200.0  # of the plotted area, in units of the view box
MARGIN = (14.0, 120.0, 40.0, 52.0)  # top, right, bottom, left

Points = Sequence[tuple[float, float]]


def chart(curves: Mapping[str, Points], x: str, y: str, scale: Sequence[str], end: float = 0.0) -> Markup:
    """Curves over a common axis ``x``; values that are not finite are left out.

    The curves named in ``scale`` set the vertical axis, without the highest fiftieth of their values; what is above it
    leaves the picture at the top.  The horizontal axis reaches from 0 to ``end`` at least.  Empty where none of them
    has a point.
    """
    finite = {k: [(a, float(b)) for a, b in v if b is not None and math.isfinite(b)] for k, v in curves.items()}
    known = {name: points for name, points in finite.items() if points}
    leading = [sorted(b for _, b in known[name]) for name in scale if name in known]
    if not leading:
        return Markup("")
    top = 1.15 * max(values[math.ceil(0.98 * (len(values) - 1))] for values in leading) or 1.0
    low = min(0.0, min(values[0] for values in leading))
    left = min(0.0, min(a for points in known.values() for a, _ in points))
    right = max(end, *(a for points in known.values() for a, _ in points))
    wide, tall = right - left or 1.0, top - low or 1.0

    def place(a: float, b: float) -> tuple[float, float]:
        return (a - left) / wide * WIDTH, (top - b) / tall * HEIGHT

    ends = {name: max(place(*points[-1])[1], 0.0) for name, points in known.items()}
    names = [
        {
            "name": name,
            "line": " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points),
            "dots": [place(*point) for point in points] if len(points) <= 12 else [],
            "end": end,
        }
        for (name, points), end in zip(known.items(), _apart(ends).values(), strict=True)
    ]
    return Markup(
        _template().render(
            width=WIDTH,
            height=HEIGHT,
            margin=MARGIN,
            curves=names,
            across=[(place(value, low)[0], f"{value:g}") for value in ticks(left, right)],
            up=[(place(left, value)[1], f"{value:g}") for value in ticks(low, top)],
            x=x,
            y=y,
        )
    )


@cache
def _template() -> Template:
    made = Environment(
        loader=PackageLoader("beeline.runs"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return made.get_template("chart.svg.j2")


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers within an interval.

    >>> ticks(0, 1.7)
    [0.0, 0.5, 1.0, 1.5]
    """
    raw = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    return [round(step * k, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _apart(heights: Mapping[str, float], gap: float = 16.0) -> dict[str, float]:
    """Heights of the names of the curves, moved down where they would overlap."""
    placed: dict[str, float] = {}
    last = -gap
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        placed[name] = last = max(height, last + gap)
    return {name: placed[name] for name in heights}
