"""What the report of a run shows of a table: columns, correlations and pairs, made beside real."""

from __future__ import annotations

from collections.abc import Mapping

from beeline.cli.measuring import Look, data_of
from beeline.cli.report import Section
from beeline.data.tables.table import Table
from beeline.estimators.tabular_report import correlations, histograms, picture, worst_pairs

ROWS = 5000  # made rows that are drawn, and real ones beside them


def table_sections(looks: Mapping[str, Look]) -> list[Section]:
    """The sections of every model of a table; none for other data."""
    found = []
    for name, seen in looks.items():
        table = seen.bundle.modality
        if not isinstance(table, Table):
            continue
        real, _ = data_of(seen.bundle).load()
        real = real.head(ROWS)
        made = seen.bundle.sample(min(ROWS, len(real)), batch_size=4096)
        found += [
            Section(
                f"Columns of {name}",
                picture(histograms(table.columns, real, made)),
                "<p>Real rows in grey, made rows as an amber line; beside the name the distance between the two.</p>",
            ),
            Section(
                f"Correlations of {name}",
                picture(correlations(table.columns, real, made)),
                "<p>PairedDataset numbers and moments: in real rows, in made ones, and the difference.</p>",
            ),
            Section(
                f"Pairs of {name}",
                worst_pairs(table.columns, real, made),
                "<p>The pairs of columns that are furthest off.</p>",
            ),
        ]
    return found
