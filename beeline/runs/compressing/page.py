"""A page of a chain of compressions: one picture of sizes and errors, and its table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from beeline.runs.compressing.measuring import Link, rows_of

WIDTH, HEIGHT, EDGE = 640, 320, 60


def page_of(links: Sequence[Link], tried: Sequence[Link] = ()) -> str:
    """An HTML page with the links of a chain, and the alternatives that were tried."""
    shown = [*links, *tried]
    parts = [
        "<!doctype html><meta charset='utf-8'><title>The chain of a compressed flow</title>",
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}</style>",
        "<h1>The chain of a compressed flow</h1>",
        "<p>Every bundle beside the first one: its bytes (horizontally) and the distance of its samples to held-out "
        "data, or their drift where no data were given (vertically).  Lower left is better.</p>",
        picture(shown, len(links)),
        table(rows_of(links)),
    ]
    if tried:
        parts += ["<h2>Tried</h2>", table(rows_of(tried))]
    return "\n".join(parts)


def picture(links: Sequence[Link], joined: int) -> str:
    """An SVG of points (share of bytes, distance or drift), of which the first are joined by lines."""
    x = [link.bytes / links[0].bytes for link in links]
    y = [link.drift if link.distance is None else link.distance for link in links]
    right, top = max(x) * 1.05, max(max(y) * 1.1, 1e-12)
    at = [
        (EDGE + a / right * (WIDTH - 2 * EDGE), HEIGHT - EDGE - b / top * (HEIGHT - 2 * EDGE))
        for a, b in zip(x, y, strict=True)
    ]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in at[:joined])
    marks = "".join(
        f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4'/><text x='{a + 6:.1f}' y='{b - 6:.1f}' font-size='11'>"
        f"{html.escape(link.method or 'as it was')}</text>"
        for (a, b), link in zip(at, links, strict=True)
    )
    base = HEIGHT - EDGE
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img'>"
        f"<path d='M{EDGE},{EDGE / 2}V{base}H{WIDTH - EDGE / 2}' fill='none' stroke='gray'/>"
        f"<polyline points='{line}' fill='none' stroke='steelblue'/>{marks}"
        f"<text x='{WIDTH / 2}' y='{HEIGHT - 20}' font-size='12'>share of the bytes (right end: {right:.2f})</text>"
        f"<text x='4' y='{EDGE / 2 - 4}' font-size='12'>distance (top: {top:.3g})</text></svg>"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
