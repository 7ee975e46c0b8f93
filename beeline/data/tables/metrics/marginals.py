"""Small histograms of the columns of generated rows beside real ones, for previews."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from beeline.data.tables.codec.codes import Array
from beeline.data.tables.metrics.pairs import columns_of, levels_of
from beeline.data.tables.schema import Schema

WIDTH, HEIGHT = 120, 44
BINS, LEVELS = 16, 8  # of a histogram: intervals of a number, and the most frequent levels of a category


def marginals(schema: Schema, real: Any, made: Any) -> dict[str, str]:
    """An SVG for every learned column: real rows as grey bars, generated rows as a line."""
    found = {}
    for name, (a, b, continuous) in columns_of(schema, real, made).items():
        if continuous:
            heights, words = _intervals(a, b)
        else:
            heights, words = _shares(a, b, levels_of(real[name], made[name]))
        found[name] = _svg(name, *heights, words)
    return found


def _intervals(a: Array, b: Array) -> tuple[tuple[Array, Array], list[str]]:
    """Shares of the values in equal intervals between the real extremes; values beyond them count at the ends."""
    known = a[~np.isnan(a)]
    low, high = (float(np.quantile(known, q)) if len(known) else q for q in (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    heights = [
        np.histogram(np.clip(part[~np.isnan(part)], edges[0], edges[-1]), edges)[0] / max(1, len(part))
        for part in (a, b)
    ]
    words = [f"{p:.4g} to {q:.4g}" for p, q in zip(edges[:-1], edges[1:], strict=True)]
    return (heights[0], heights[1]), words


def _shares(a: Array, b: Array, levels: Sequence[str]) -> tuple[tuple[Array, Array], list[str]]:
    """Shares of the levels that are most frequent in the real rows."""
    counts = [np.bincount(part, minlength=len(levels)) / max(1, len(part)) for part in (a, b)]
    order = np.argsort(-counts[0], kind="stable")[:LEVELS]
    return (counts[0][order], counts[1][order]), [levels[k] or "(empty)" for k in order]


def _svg(name: str, real: Array, made: Array, words: Sequence[str]) -> str:
    top = max(float(real.max()), float(made.max()), 1e-9)
    each = WIDTH / len(words)
    bars = "".join(
        f'<rect x="{i * each:.1f}" y="{HEIGHT * (1 - p / top):.1f}" width="{each * 0.9:.1f}" '
        f'height="{HEIGHT * p / top:.1f}" fill="currentColor" opacity="0.3">'
        f"<title>{html.escape(word)}: real {p:.1%}, generated {q:.1%}</title></rect>"
        for i, (p, q, word) in enumerate(zip(real, made, words, strict=True))
    )
    steps = " ".join(
        f"{x:.1f},{HEIGHT * (1 - q / top):.1f}" for i, q in enumerate(made) for x in (i * each, (i + 0.9) * each)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 -1 {WIDTH} {HEIGHT + 2}" role="img" '
        f'aria-label="{html.escape(name)}: real and generated shares">{bars}'
        f'<polyline points="{steps}" fill="none" stroke="#d9822b" stroke-width="2"/></svg>'
    )
