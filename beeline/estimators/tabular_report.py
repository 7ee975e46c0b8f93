"""HTML report of a table: generated against real rows, by column and by pair of columns."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from beeline.core.errors import extra
from beeline.core.protocols.data import TableMetric
from beeline.core.rng import Rng
from beeline.data.tables.metrics.pairs import columns_of, correlation, levels_of
from beeline.data.tables.metrics.privacy import ClosestRecord
from beeline.data.tables.metrics.scores import Downstream, ShapeError, TrendError, usual
from beeline.data.tables.schema import Datetime, Schema

REAL, MADE = "#7a7f87", "#d9822b"  # gray and amber, distinguishable in print and with color blindness
SHOWN = 12  # largest number of levels in a plot


def scores(
    table: Any, real: Any, made: Any, rng: Rng, *, holdout: Any = None, target: str | None = None
) -> list[dict[str, Any]]:
    """Every metric with its baseline: the same metric between two halves of the real rows.

    With a ``holdout`` (real rows that were not trained on) also the error of the closest records, whose baseline is 0,
    and with a ``target`` the score of a model trained on generated rows and tested on the holdout, whose baseline is a
    model trained on real rows.
    """
    schema = table.columns
    order = rng.fork("floor").permutation(len(real)).numpy()
    half = len(real) // 2
    one, other = (real.iloc[part].reset_index(drop=True) for part in (order[:half], order[half:]))
    found = []

    def add(metric: TableMetric, value: float, baseline: float) -> None:
        found.append({"name": metric.name, "value": value, "baseline": baseline, "better": metric.better})

    for metric in usual(table):
        add(metric, metric(schema, real, made, rng), metric(schema, one, other, rng))
    if holdout is not None:
        near = ClosestRecord(holdout)
        add(near, near(schema, real, made, rng), 0.0)
        if target is not None:
            judge = Downstream(target, holdout)
            add(judge, judge(schema, real, made, rng), judge(schema, real, real, rng))
    return found


def report(
    table: Any,
    real: Any,
    made: Any,
    rng: Rng,
    *,
    holdout: Any = None,
    target: str | None = None,
    title: str = "Generated rows and real rows",
) -> str:
    """One self-contained HTML page: metrics with baselines, histograms, pairs, correlations, and the first rows."""
    return render(
        "table_report",
        title=title,
        generated=len(made),
        real=len(real),
        columns=len(table.columns.columns),
        scores=scores(table, real, made, rng, holdout=holdout, target=target),
        parts={
            "Columns": picture(histograms(table.columns, real, made)),
            "Correlations of numbers": picture(correlations(table.columns, real, made)),
            "Pairs of columns with the largest errors": worst_pairs(table.columns, real, made),
            "First generated rows": table.preview(made).decode(),
        },
        schema=table.summary(),
    )


def render(template: str, **values: Any) -> str:
    """A template of ``beeline/estimators/templates`` with its values, which are escaped, as HTML."""
    found = Environment(loader=PackageLoader("beeline.estimators"), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True)  # fmt: skip
    return found.get_template(f"{template}.html.j2").render(**values)


def histograms(schema: Schema, real: Any, made: Any, *, wide: int = 4, each: tuple[float, float] = (3.4, 2.5)) -> Any:
    """A figure with one panel per learned column: real in gray, generated as an amber line.

    ``wide`` panels are in a row, each of the size ``each`` in inches.
    """
    figure = extra("matplotlib.figure", "tables").Figure
    columns = columns_of(schema, real, made)
    errors = ShapeError().each(schema, real, made)
    wide = min(wide, max(1, len(columns)))
    tall = -(-len(columns) // wide)
    page = figure(figsize=(each[0] * wide, each[1] * tall), layout="constrained")
    for i, (name, (a, b, continuous)) in enumerate(columns.items()):
        axes = page.add_subplot(tall, wide, i + 1)
        axes.set_title(f"{name}   {errors[name]:.3f}", fontsize=9)
        axes.tick_params(labelsize=7)
        if continuous:
            known = np.concatenate([a[~np.isnan(a)], b[~np.isnan(b)]])
            low, high = (float(np.quantile(known, q)) if len(known) else q for q in (0.001, 0.999))
            edges = np.linspace(low, high, 41)
            looks = (a, {"color": REAL, "alpha": 0.5}), (b, {"color": MADE, "histtype": "step", "linewidth": 1.4})
            for part, look in looks:
                if (~np.isnan(part)).any():
                    axes.hist(part[~np.isnan(part)], edges, density=True, **look)
            column = schema[name]
            if isinstance(column, Datetime):
                axes.set_xlabel(f"{column.unit} since {column.low}", fontsize=7)
        else:
            counts = [np.bincount(part, minlength=int(max(a.max(), b.max())) + 1) / len(part) for part in (a, b)]
            order = np.argsort(-counts[0])[:SHOWN]
            axes.bar(np.arange(len(order)), counts[0][order], 0.8, color=REAL, alpha=0.5)
            axes.plot(np.arange(len(order)), counts[1][order], drawstyle="steps-mid", color=MADE, linewidth=1.4)
            names = [level or "(empty)" for level in levels_of(real[name], made[name])]
            axes.set_xticks(np.arange(len(order)), [names[k][:10] for k in order], rotation=60, fontsize=6)
    return verbatim(page)


def correlations(schema: Schema, real: Any, made: Any, *, size: tuple[float, float] = (12, 3.6)) -> Any:
    """Correlation matrices of real rows, of generated rows, and their difference; ``size`` in inches."""
    figure = extra("matplotlib.figure", "tables").Figure
    columns = {n: (a, b) for n, (a, b, continuous) in columns_of(schema, real, made).items() if continuous}
    names = list(columns)
    page = figure(figsize=size, layout="constrained")
    squares = [
        np.array([[correlation(columns[p][k], columns[q][k]) for q in names] for p in names] or [[np.nan]])
        for k in (0, 1)
    ]
    most = float(np.nanmax(np.abs(squares[1] - squares[0]), initial=0.05))
    shown = [(squares[0], "real", 1.0), (squares[1], "made", 1.0), (squares[1] - squares[0], "made - real", most)]
    for i, (square, title, end) in enumerate(shown):
        axes = page.add_subplot(1, 3, i + 1)
        picture = axes.imshow(square, cmap="RdBu_r", vmin=-end, vmax=end)
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(names)), [n[:12] for n in names], rotation=60, fontsize=7)
        axes.set_yticks(range(len(names)), [n[:12] for n in names], fontsize=7)
        page.colorbar(picture, ax=axes, shrink=0.8)
    return verbatim(page)


def verbatim(page: Any) -> Any:
    """The figure without math text, so that dollar signs in names are shown as they are."""
    text = extra("matplotlib.text", "tables").Text
    for axes in page.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # creates the ticks
    for found in page.findobj(text):
        found.set_parse_math(False)
    return page


def worst_pairs(schema: Schema, real: Any, made: Any) -> str:
    """The pairs of columns with the largest trend error, as an HTML table."""
    found = TrendError().each(schema, real, made)
    worst = sorted(((v, p) for p, v in found.items() if not np.isnan(v)), reverse=True)[:8]
    return render("worst_pairs", pairs=worst)


def picture(page: Any) -> str:
    """A figure as an embedded image."""
    file = io.BytesIO()
    page.savefig(file, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
