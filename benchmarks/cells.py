"""Known cells of a table: how well rows are drawn under conditions, and how well gaps are filled.

    python -m benchmarks.cells --data FOLDER [--flow DIRECTORY]

FOLDER holds adult-train.csv and adult-test.csv; a flow is fitted to the first unless a saved one is given.  Made rows
are compared with rows of the test file under the same condition; the floor is what training rows score there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from beeline.core.rng import Rng
from beeline.data.tables.metrics.scores import ShapeError, TrendError
from beeline.estimators.tabular import TabularFlow

CONDITIONS: tuple[dict[str, Any], ...] = (
    {"income": ">50K"},
    {"sex": "Female"},
    {"education": "Bachelors"},
    {"age": 30},
    {"sex": "Female", "marital_status": "Divorced"},
    {"income": ">50K", "occupation": "Craft-repair", "race": "White"},
)


def conditional(flow: TabularFlow, train: pd.DataFrame, test: pd.DataFrame, n: int) -> list[dict[str, Any]]:
    """Errors of rows drawn under each condition, against real rows that meet it."""
    schema, found = flow.table_.columns, []
    for condition in CONDITIONS:
        real, known = (rows_with(rows, condition) for rows in (test, train))
        made = flow.sample(n, conditions=condition, random_state=0)
        row: dict[str, Any] = {"condition": condition, "test rows": len(real), "training rows": len(known)}
        for metric in (ShapeError(), TrendError()):
            row[metric.name] = metric(schema, real, made, Rng(0))
            row[f"{metric.name}, training rows"] = metric(schema, real, known, Rng(0))
        row["kept"] = bool(rows_with(made, condition).shape == made.shape)
        found.append(row)
    return found


def rows_with(rows: pd.DataFrame, condition: dict[str, Any]) -> pd.DataFrame:
    """The rows that meet a condition."""
    meets = pd.Series(True, index=rows.index)
    for name, value in condition.items():
        meets &= rows[name] == value
    return rows[meets].reset_index(drop=True)


def filled(flow: TabularFlow, train: pd.DataFrame, test: pd.DataFrame, n: int, share: float) -> dict[str, Any]:
    """Gaps of test rows filled once, beside cells drawn from the column alone and beside its commonest value.

    For categories the share of cells that are as they were; for numbers the mean distance in deviations.
    """
    rows = test.head(n).reset_index(drop=True)
    gaps = pd.DataFrame(Rng(1).fill(torch.empty(rows.shape)).numpy() < share, columns=rows.columns)
    made = flow.impute(rows.mask(gaps), random_state=0)
    margin = pd.DataFrame({c: train[c].sample(n, replace=True, random_state=1).to_numpy() for c in rows.columns})
    hits: dict[str, list[float]] = {"filled": [], "column alone": [], "commonest": []}
    far: dict[str, list[float]] = {"filled": [], "column alone": [], "commonest": []}
    for name in rows.columns:
        gap, true = gaps[name], rows[name]
        usual = train[name].median() if pd.api.types.is_numeric_dtype(true) else train[name].mode()[0]
        for kind, cells in (("filled", made[name]), ("column alone", margin[name]), ("commonest", usual)):
            given = cells[gap] if isinstance(cells, pd.Series) else cells
            if pd.api.types.is_numeric_dtype(true):
                far[kind].append(float((given - true[gap]).abs().mean() / train[name].std()))
            else:
                hits[kind].append(float((given == true[gap]).mean()))
    mean = {kind: sum(v) / len(v) for kind, v in hits.items()}, {kind: sum(v) / len(v) for kind, v in far.items()}
    after = {m.name: m(flow.table_.columns, rows, made, Rng(0)) for m in (ShapeError(), TrendError())}
    return {"rows": n, "share of gaps": share, "categories right": mean[0], "distance of numbers": mean[1]} | after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--flow", type=Path)
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cells.json")
    given = parser.parse_args()
    train, test = (pd.read_csv(given.data / f"adult-{part}.csv") for part in ("train", "test"))
    flow = TabularFlow.load(given.flow) if given.flow else TabularFlow(random_state=0).fit(train)
    found = {
        "conditions": conditional(flow, train, test, given.n),
        "gaps": filled(flow, train, test, given.n, share=0.2),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
