"""Plots of a report: functions from plain data to matplotlib figures, in colours that follow the theme of the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from beeline.core.errors import require

# Placeholder colours of the figures; on the page each becomes a CSS variable with a light and a dark value.
INK, FAINT, GRID = "#0a0a0a", "#0b0b0b", "#0c0c0c"
SERIES = tuple(f"#01000{i}" for i in range(1, 7))
LIGHT = dict(
    zip(
        (INK, FAINT, GRID, *SERIES),
        ("#1c2330", "#68707d", "#dfe3e8", "#2563c9", "#d2600a", "#12876a", "#8a4bb8", "#c22f55", "#7a6a10"),
        strict=True,
    )  # fmt: skip
)
DARK = dict(
    zip(
        (INK, FAINT, GRID, *SERIES),
        ("#e8ebf0", "#98a1ae", "#343b46", "#7fb0ff", "#ffa45c", "#57d2ac", "#cf9df0", "#ff8aa4", "#d8c550"),
        strict=True,
    )  # fmt: skip
)
VARIABLES = dict(
    zip((INK, FAINT, GRID, *SERIES), ("ink", "faint", "grid", *(f"series-{i}" for i in range(1, 7))), strict=True)
)
SIZE = 11  # points of the labels; figures are drawn as wide as a phone, so that they stay readable there

Curve = Sequence[tuple[float, float]]

LITERAL: dict[Any, Any] = {"text.parse_math": False}  # a dollar sign in the name of a model is a dollar sign
METADATA = ("Date", "Creator", "Format", "Type")  # of the SVG files of matplotlib, left out


def colour(name: str, order: Sequence[str]) -> str:
    """The colour of a model: its place in ``order``, the same in every figure of a report."""
    return SERIES[list(order).index(name) % len(SERIES)]


def svg(figure: Figure, name: str, *, about: str = "") -> Markup:
    """The figure as inline SVG in the colours of the page.

    It is labelled by ``about``, or by the caption with the id NAME-caption; ``name`` is unique within the page.
    """
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, **LITERAL}):  # the salt makes ids of clips unique
        figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    body = out.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r' id="[\w.]+_\d{1,3}"', "", body)  # ids of groups, which are the same in every figure
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    label = Markup('aria-label="{}"').format(about) if about else Markup('aria-labelledby="{}-caption"').format(name)
    width, height = figure.get_size_inches() * 72
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" {}>').format(width, height, label) + Markup(body)


def png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Pixels [H,W,C], C of 1 to 4, as a PNG."""
    from PIL import Image as Picture

    out = io.BytesIO()
    Picture.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def tiles(images: Tensor, columns: int = 4) -> bytes:
    """A PNG of images [N,C,H,W] in [-1, 1] (C of 1 or 3), in rows of ``columns`` with clear gaps, one pixel each."""
    require(
        images.ndim == 4 and images.shape[1] in (1, 3),
        f"images of shape {tuple(images.shape)} were to be shown; give [N,C,H,W] with one channel or three",
    )
    n, _, h, w = images.shape
    values = ((images.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    shown = values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    rows, gap = math.ceil(n / columns), max(1, w // 12)
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    for i, tile in enumerate(shown):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[y : y + h, x : x + w, :3] = tile
        canvas[y : y + h, x : x + w, 3] = 255
    return png(canvas)


@rc_context(LITERAL)
def cloud(points: Tensor, paint: str, limits: tuple[float, float] | None = None) -> Figure:
    """Points [N,D], 300 at most, in their first two coordinates; ``limits`` are those of the real data."""
    figure, axes = _blank(1.5, 1.5)
    flat = points.detach().cpu().flatten(1).float()[:300]
    y = flat[:, 1] if flat.shape[1] > 1 else torch.zeros(len(flat))
    axes.scatter(flat[:, 0].numpy(), y.numpy(), s=3, c=paint, alpha=0.55, linewidths=0)
    low, high = limits or (float(flat[:, :2].min()), float(flat[:, :2].max()))
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_axis_off()
    return figure


@rc_context(LITERAL)
def quality(
    curves: Mapping[str, Sequence[tuple[float, float] | tuple[float, float, tuple[float, float] | None]]],
    label: str,
    *,
    order: Sequence[str] = (),
    floor: float | None = None,
) -> Figure:
    """A figure against field evaluations per sample: points (evaluations, value[, interval]) for every model.

    Evaluations are on a logarithmic axis, values too where they are positive and span more than a factor of ten; the
    floor is what real data score against real data.
    """
    figure, axes = _axes()
    everything = [point for curve in curves.values() for point in curve]
    values = [p[1] for p in everything] + ([floor] if floor is not None else [])
    low, high = min(values), max(values)
    logs = low > 0 and high / low > 10
    axes.set_xscale("log", base=2)
    if logs:
        axes.set_yscale("log")
    ticks = sorted({p[0] for p in everything})
    ends = []
    for i, (name, curve) in enumerate(curves.items()):
        paint = colour(name, order or list(curves))
        points = sorted(curve)
        aside = 2 ** (0.09 * (i - (len(curves) - 1) / 2))  # so that intervals at one place stay apart
        x, y = [p[0] * aside for p in points], [p[1] for p in points]
        axes.plot(x, y, color=paint, linewidth=2, marker="o", markersize=5, clip_on=False, zorder=3)
        for p in points:
            if len(p) > 2 and p[2] is not None:  # type: ignore[misc]
                a, b = p[2]  # type: ignore[misc]
                axes.plot([p[0] * aside] * 2, [max(a, low * 0.5) if logs else a, b], color=paint, linewidth=3.5,
                          alpha=0.3, solid_capstyle="round", zorder=2)  # fmt: skip
        if points[-1][0] == ticks[-1]:
            ends.append((x[-1], y[-1], name, paint))
        else:  # a line that ends early is named where it ends
            axes.annotate(
                name, (x[-1], y[-1]), (4, -9), textcoords="offset points", color=paint, fontsize=SIZE, va="top"
            )
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    last = ticks[-1]
    axes.set_xlim(ticks[0] / 1.15, last * 1.15)
    if floor is not None:
        axes.axhline(floor, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        ends.append((last, floor, "real data", FAINT))
    _labels(axes, ends, last * 1.15)
    axes.set_xlabel("field evaluations per sample")
    _heading(axes, label)
    _plain_values(axes, logs)
    return figure


def plane(paths: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The centre [D] and the first two principal directions [D,2] of all states of all models' paths [T,N,*S]."""
    states = torch.cat([path.detach().cpu().double().flatten(2).flatten(0, 1) for path in paths.values()])
    centre = states.mean(0)
    _, _, directions = torch.linalg.svd(states - centre, full_matrices=False)
    two = directions[:2].T
    return centre, two if two.shape[1] == 2 else torch.cat([two, torch.zeros_like(two)], 1)


@rc_context(LITERAL)
def trajectories(paths: Mapping[str, Tensor], order: Sequence[str] = ()) -> dict[str, Figure]:
    """One picture per model of its paths [T,N,*S], all in the same plane (``plane``) and at the same scale.

    Hollow points are noise, filled ones data; the faint chord is what a straight path would be.
    """
    centre, two = plane(paths)
    flat = {name: (path.detach().cpu().double().flatten(2) - centre) @ two for name, path in paths.items()}
    everything = torch.cat([path.flatten(0, 1) for path in flat.values()])
    middle = (everything.amax(0) + everything.amin(0)) / 2
    reach = float((everything.amax(0) - everything.amin(0)).max()) * 0.54 or 1.0
    made = {}
    for name, path in flat.items():
        figure, axes = _blank(3.0, 3.0)
        paint = colour(name, order or list(paths))
        for k in range(path.shape[1]):
            x, y = path[:, k, 0].numpy(), path[:, k, 1].numpy()
            axes.plot([x[0], x[-1]], [y[0], y[-1]], color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
            axes.plot(x, y, color=paint, linewidth=1.8, solid_capstyle="round", zorder=2)
            axes.plot(x[:1], y[:1], "o", markersize=5, markerfacecolor="none", markeredgecolor=paint, zorder=3)
            axes.plot(x[-1:], y[-1:], "o", markersize=5.5, color=paint, markeredgewidth=0, zorder=3)
        axes.set(
            xlim=(float(middle[0]) - reach, float(middle[0]) + reach),
            ylim=(float(middle[1]) - reach, float(middle[1]) + reach),
            aspect="equal",
        )
        axes.set_axis_off()
        made[name] = figure
    return made


@rc_context(LITERAL)
def loss_by_time(
    models: Mapping[str, Sequence[float]],
    *,
    mean: Sequence[float] | None = None,
    posterior: Sequence[float] | None = None,
    order: Sequence[str] = (),
) -> Figure:
    """Held-out loss by time bin for every model, between two baselines: the mean of the data, and their posterior."""
    figure, axes = _axes()
    rows: list[tuple[str, Sequence[float], str, Any, float]]
    rows = [(name, values, colour(name, order or list(models)), "-", 2.0) for name, values in models.items()]
    rows += [("mean only", mean, FAINT, (0, (4, 3)), 1.4)] if mean is not None else []
    # near the data the memorised posterior may be wrong without bound: it leaves the picture at the top
    top = 1.15 * max(float(np.nanmax(values)) for _, values, *_ in rows)  # a bin that no datum fell into is empty
    rows += [("memorised", posterior, FAINT, (0, (1, 2)), 1.6)] if posterior is not None else []
    ends = []
    for name, values, paint, style, width in rows:
        t = (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(t, values, color=paint, linestyle=style, linewidth=width, zorder=3 if style == "-" else 2)
        gone = next((i for i, value in enumerate(values) if value > top), None)
        if gone is None:
            seen = int(np.flatnonzero(np.isfinite(values))[-1])
            ends.append((float(t[seen]), float(values[seen]), name, paint))
        else:
            share = (top - values[gone - 1]) / (values[gone] - values[gone - 1]) if gone else 0.0
            at = float(t[gone] - (1 - share) / len(values))
            axes.text(at - 0.02, top, name, color=paint, fontsize=SIZE, ha="right" if at > 0.3 else "left", va="top")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, top)
    axes.set_xticks([0, 0.5, 1], ["0\nnoise", "time", "1\ndata"])
    _labels(axes, ends, 1.0)
    _heading(axes, "Held-out loss")
    _plain_values(axes, False)
    return figure


@rc_context(LITERAL)
def training(curves: Mapping[str, Curve], label: str = "training loss", order: Sequence[str] = ()) -> Figure:
    """Loss against steps: every value faintly where there are few, and a running mean over a fiftieth of the run."""
    figure, axes = _axes()
    ends = []
    for name, curve in curves.items():
        paint = colour(name, order or list(curves))
        steps, values = np.array(curve, dtype=float).T
        smooth, at = _running(values, max(1, len(values) // 50)), _thin(len(values), 300)
        if len(values) <= 5000:
            raw = _thin(len(values), 400)
            axes.plot(steps[raw], values[raw], color=paint, linewidth=0.8, alpha=0.25, zorder=1)
        axes.plot(steps[at], smooth[at], color=paint, linewidth=2, zorder=3)
        ends.append((float(steps[-1]), float(smooth[-1]), name, paint))
    everything = np.concatenate([np.array(curve, dtype=float)[:, 1] for curve in curves.values()])
    logs = bool((everything > 0).all()) and float(everything.max() / everything.min()) > 30
    if logs:
        axes.set_yscale("log")
    last = max(end[0] for end in ends)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("step")
    _labels(axes, ends, last)
    _heading(axes, label[:1].upper() + label[1:])
    _plain_values(axes, logs)
    return figure


# ------------------------------------------------------------------------------------------------------------ drawing


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.3))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.11, 0.16, 0.66, 0.72))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=FAINT, labelsize=SIZE - 1)
    axes.xaxis.label.set(color=FAINT, fontsize=SIZE)
    return figure, axes


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.0, 0.0, 1.0, 1.0))


def _heading(axes: Axes, text: str) -> None:
    """What the vertical axis shows, above it and level, where it can be read."""
    axes.text(-0.16, 1.1, text, transform=axes.transAxes, color=INK, fontsize=SIZE, fontweight="bold", va="center")


def _labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], edge: float) -> None:
    """Names at the right of the lines they belong to, moved apart where they would overlap, with a thin leader."""
    axes.figure.canvas.draw()  # type: ignore[union-attr]
    into = axes.transAxes.inverted()
    heights = [float(into.transform(axes.transData.transform((edge, y)))[1]) for _, y, _, _ in ends]
    for i, place in zip(range(len(ends)), spread(heights, 0.085), strict=True):
        x, _, name, paint = ends[i]
        start = float(into.transform(axes.transData.transform((x, ends[i][1])))[0])
        axes.plot([max(start, 0.0) + 0.012, 1.03], [heights[i], place], transform=axes.transAxes, color=paint,
                  linewidth=0.7, alpha=0.6, clip_on=False, zorder=1)  # fmt: skip
        axes.text(1.04, place, name, transform=axes.transAxes, color=paint, fontsize=SIZE, va="center")


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as possible so that neighbours are ``gap`` apart, in their order.

    >>> [round(h, 2) for h in spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[float, list[int]]] = []  # centre, members from low to high
    for i in order:
        groups.append((heights[i], [i]))
        while len(groups) > 1:
            (low, a), (high, b) = groups[-2:]
            if high - low >= gap * (len(a) + len(b)) / 2 - 1e-12:
                break
            members = a + b
            groups[-2:] = [(sum(heights[j] for j in members) / len(members), members)]
    placed = [0.0] * len(heights)
    for centre, members in groups:
        for k, i in enumerate(members):
            placed[i] = centre + (k - (len(members) - 1) / 2) * gap
    return placed


def _plain_values(axes: Axes, logs: bool) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    if logs:
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _running(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Mean of the last ``width`` values, of fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    after = np.arange(1, len(values) + 1)
    before = np.maximum(after - width, 0)
    mean: np.ndarray[Any, Any] = (total[after] - total[before]) / (after - before)
    return mean


def _thin(n: int, most: int) -> np.ndarray[Any, Any]:
    kept: np.ndarray[Any, Any] = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
    return kept
