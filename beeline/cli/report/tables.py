"""Sections for a model of table rows: columns, correlations and pairs of columns, generated beside real."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from beeline.cli.report.measuring import ModelResults
from beeline.cli.report.page import Section, section
from beeline.data.tables.table import Table
from beeline.estimators.tabular_report import correlations, histograms, picture, worst_pairs
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
                picture(histograms(table.columns, real, made)),
                "Real rows are grey, generated rows an amber line. The number is the distance between the two.",
            ),
            (
                "Correlations",
                picture(correlations(table.columns, real, made)),
                "Correlations of numbers and dates: in real rows, in generated rows, and the difference.",
            ),
            ("Pairs", worst_pairs(table.columns, real, made), "The pairs of columns with the largest trend error."),
        )
        found += [section(f"{t} of {name}", "table", picture=Markup(html), prose=text) for t, html, text in parts]
    return found
