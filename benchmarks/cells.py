"""Conditional sampling and imputation of tables, on the Adult data set.

    python -m benchmarks.cells --data FOLDER [--flow DIRECTORY] [--samples 5000] [--output FILE]

FOLDER contains adult-train.csv and adult-test.csv; a flow is fitted to the first file unless a saved one is given.
Generated rows are compared with the rows of the test file under the same condition, and so are the training rows, as
the real-vs-real baseline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from beeline.core.rng import Rng
from beeline.data.tables.metrics.scores import ShapeError, TrendError
from beeline.estimators.tabular import TabularFlow
from benchmarks import report

CONDITIONS: tuple[dict[str, Any], ...] = (
    {"income": ">50K"},
    {"sex": "Female"},
    {"education": "Bachelors"},
    {"age": 30},
    {"sex": "Female", "marital_status": "Divorced"},
    {"income": ">50K", "occupation": "Craft-repair", "race": "White"},
)


def conditional(flow: TabularFlow, train: pd.DataFrame, test: pd.DataFrame, n: int) -> list[dict[str, Any]]:
    """Errors of rows generated under each condition, compared with real rows that satisfy it."""
    schema, found = flow.table_.columns, []
    for condition in CONDITIONS:
        real, known = (rows_with(rows, condition) for rows in (test, train))
        made = flow.sample(n, conditions=condition, random_state=0)
        row: dict[str, Any] = {"condition": condition, "test rows": len(real), "training rows": len(known)}
        for metric in (ShapeError(), TrendError()):
            row[metric.name] = metric(schema, real, made, Rng(0))
            row[f"{metric.name}, training rows"] = metric(schema, real, known, Rng(0))
        row["condition satisfied"] = bool(rows_with(made, condition).shape == made.shape)
        found.append(row)
    return found


def rows_with(rows: pd.DataFrame, condition: dict[str, Any]) -> pd.DataFrame:
    """The rows that satisfy a condition."""
    meets = pd.Series(True, index=rows.index)
    for name, value in condition.items():
        meets &= rows[name] == value
    return rows[meets].reset_index(drop=True)


def imputed(flow: TabularFlow, train: pd.DataFrame, test: pd.DataFrame, n: int, share: float) -> dict[str, Any]:
    """Imputed cells of test rows, compared with values sampled from the column and with its most common value.

    For categories the fraction of correct cells; for numbers the mean absolute error in standard deviations.
    """
    rows = test.head(n).reset_index(drop=True)
    gaps = pd.DataFrame(Rng(1).fill(torch.empty(rows.shape)).numpy() < share, columns=rows.columns)
    made = flow.impute(rows.mask(gaps), random_state=0)
    margin = pd.DataFrame({c: train[c].sample(n, replace=True, random_state=1).to_numpy() for c in rows.columns})
    hits: dict[str, list[float]] = {"imputed": [], "column sample": [], "most common": []}
    far: dict[str, list[float]] = {"imputed": [], "column sample": [], "most common": []}
    for name in rows.columns:
        gap, true = gaps[name], rows[name]
        usual = train[name].median() if pd.api.types.is_numeric_dtype(true) else train[name].mode()[0]
        for kind, cells in (("imputed", made[name]), ("column sample", margin[name]), ("most common", usual)):
            given = cells[gap] if isinstance(cells, pd.Series) else cells
            if pd.api.types.is_numeric_dtype(true):
                far[kind].append(float((given - true[gap]).abs().mean() / train[name].std()))
            else:
                hits[kind].append(float((given == true[gap]).mean()))
    mean = {kind: sum(v) / len(v) for kind, v in hits.items()}, {kind: sum(v) / len(v) for kind, v in far.items()}
    after = {m.name: m(flow.table_.columns, rows, made, Rng(0)) for m in (ShapeError(), TrendError())}
    return {
        "rows": n,
        "fraction of gaps": share,
        "accuracy of categories": mean[0],
        "error of numbers": mean[1],
    } | after


def main() -> None:
    parser = report.parser("cells", __doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--flow", type=Path, metavar="DIRECTORY", help="a saved TabularFlow")
    parser.add_argument("--samples", type=int, default=5000, help="rows per condition, and test rows with gaps")
    given = parser.parse_args()
    train, test = (pd.read_csv(given.data / f"adult-{part}.csv") for part in ("train", "test"))
    flow = TabularFlow.load(given.flow) if given.flow else TabularFlow(random_state=0).fit(train)
    found = {
        "conditions": conditional(flow, train, test, given.samples),
        "gaps": imputed(flow, train, test, given.samples, share=0.2),
    }
    print(json.dumps(found, indent=1))
    report.write("cells", found, [0], given.output, packages=("pandas",), samples=given.samples)


if __name__ == "__main__":
    main()
