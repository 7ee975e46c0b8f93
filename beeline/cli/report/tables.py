"""Sections for a model of table rows: columns, correlations and pairs of columns, generated beside real."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context

from beeline.cli.report import plots
from beeline.cli.report.measuring import ModelResults
from beeline.cli.report.page import Section, section, slug
from beeline.data.tables.table import Table
from beeline.estimators.tabular_report import correlations, histograms, worst_pairs
from beeline.runs.scoring import data_of

ROWS = 5000  # generated rows, and real rows beside them


def table_sections(results: Mapping[str, ModelResults]) -> list[Section]:
    """Three sections for every model of a table; none for other data."""
    found = []
    for name, result in results.items():
        table = result.bundle.modality
        if not isinstance(table, Table):
            continue
        real, _ = data_of(result.bundle).load()
        real = real.head(ROWS)
        made = result.bundle.sample(min(ROWS, len(real)), batch_size=4096)
        parts = (
            (
                "Columns",
                figure(partial(histograms, table.columns, real, made, wide=3, each=(2.6, 2.0)), f"columns-{name}"),
                "Real rows are grey, generated rows an amber line. The number is the distance between the two.",
            ),
            (
                "Correlations",
                figure(partial(correlations, table.columns, real, made, size=(8.4, 2.6)), f"correlations-{name}"),
                "Correlations of numbers and dates: in real rows, in generated rows, and the difference.",
            ),
            ("Pairs", worst_pairs(table.columns, real, made), "The pairs of columns with the largest trend error."),
        )
        found += [section(f"{t} of {name}", "table", picture=Markup(html), prose=text) for t, html, text in parts]
    return found


INKS: dict[Any, Any] = {
    "text.color": plots.INK,
    "axes.titlecolor": plots.INK,
    "axes.labelcolor": plots.FAINT,
    "axes.edgecolor": plots.GRID,
    "xtick.color": plots.FAINT,
    "ytick.color": plots.FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""The colours of a figure that follows the theme of the page."""


def figure(build: Callable[[], Any], name: str) -> str:
    """A figure as inline SVG, in the colours of the page."""
    with rc_context(INKS):
        return f'<figure class="full">{plots.svg(build(), slug(name), about=name.replace("-", " of ", 1))}</figure>'
