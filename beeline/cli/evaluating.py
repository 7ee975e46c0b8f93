"""Evaluation and comparison of bundles at the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from beeline.cli.commands import sampler_of
from beeline.cli.console import cell, console, table
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device
from beeline.core.rng import Rng
from beeline.evaluation.scores import compare, figure, span
from beeline.runs.bundle import load
from beeline.runs.reference_data import comparable, data_set
from beeline.runs.scoring import RealData, labels_of, score


def evaluate(
    names: Sequence[str],
    data: str | None,
    n: int,
    seed: int,
    pairs: Sequence[str],
    as_json: bool,
    device: Device = AUTO,
) -> None:
    """Evaluate bundles on the same data and noise, each with its own sampler and the settings of ``pairs``."""
    bundles = dict(zip(labels_of(list(names)), (load(name, device=device) for name in names), strict=True))
    source = data_set(data, next(iter(bundles.values())))
    for label, bundle in bundles.items():
        comparable(source, bundle, label)
    real = RealData.of(source)
    shapes = {label: tuple(bundle.modality.shape) for label, bundle in bundles.items()}
    given = tuple(next(iter(bundles.values())).modality.encode(real.held).x1.shape[1:])
    for label, shape in shapes.items():
        require(
            shape == given,
            f"{label} generates data of shape {shape}, but the data set has shape {given}, so they cannot be compared; "
            "give data of the same shape, or leave this bundle out",
        )
    reports = {
        label: score(bundle, real, n, Rng(seed), sampler=sampler_of(bundle, pairs), name=label)
        for label, bundle in bundles.items()
    }
    if as_json:
        print(json.dumps([report.as_dict() for report in reports.values()], indent=2))
        return
    if len(reports) > 1:
        console.print(side_by_side(compare(reports)))
        return
    for report in reports.values():
        console.print(report.table())


def side_by_side(rows: Sequence[dict[str, Any]]) -> Any:
    """A table with one row per score and one column per model."""
    lines = []
    for name in dict.fromkeys(key for row in rows for key in row if key != "model"):
        line, floor = {"score": name}, ""
        for row in rows:
            found = row.get(name)
            if isinstance(found, dict):
                line[row["model"]] = f"{figure(found['value'])}  ({span(found['interval'])})"
                floor = figure(found["baseline"])
                line["score"] = f"{name} {'↓' if found['better'] == 'lower' else '↑'}"
            else:
                line[row["model"]] = cell(found)
        lines.append({**line, "real vs. real": floor})
    return table(lines)
