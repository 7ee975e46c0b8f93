"""Runs beside each other: on the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beeline.cli.console import console, table
from beeline.cli.report import plots
from beeline.cli.report.page import Section, capitalised, page, section
from beeline.cli.report.samples import picture_of
from beeline.cli.runs.summary import scores
from beeline.config.translation import read_description
from beeline.core.files import write_text
from beeline.runs.run_directory import flat
from beeline.training.logs.run_log import read_log

Runs = Mapping[str, Path]
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # characters of a curve on the terminal


def print_comparison(runs: Runs) -> None:
    """Print the settings that differ, the losses and the scores."""
    different = differences(runs)
    if different:
        console.print(table(different, "Settings that differ"))
    else:
        console.print("the settings are the same")
    drawn = lines(runs)
    if drawn:
        console.print(table(drawn, "Losses"))
    found = score_rows(runs)
    if found:
        console.print(table(found, "Scores"))


def differences(runs: Runs) -> list[dict[str, Any]]:
    """A row for every setting in which the runs differ."""
    settings = {name: flat(read_description(run / "run.yaml")) for name, run in runs.items()}
    keys = dict.fromkeys(key for one in settings.values() for key in one)
    rows = []
    for key in keys:
        values = [one.get(key, "") for one in settings.values()]
        if any(value != values[0] for value in values):
            rows.append({"setting": key} | {name: str(one.get(key, "")) for name, one in settings.items()})
    return rows


def score_rows(runs: Runs) -> list[dict[str, Any]]:
    """A row for every score."""
    found = {name: scores(run) for name, run in runs.items()}
    names = dict.fromkeys(key for one in found.values() for key in one)
    return [{"score": key} | {name: one.get(key) for name, one in found.items()} for key in names]


def curves(runs: Runs) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[tuple[int, float]]]]:
    """The training losses and the held-out losses of every run."""
    training, heldout = {}, {}
    for name, run in runs.items():
        log = read_log(run / "log.jsonl") if (run / "log.jsonl").is_file() else []
        training[name] = [(e["step"], float(e["loss"])) for e in log]
        heldout[name] = [
            (e["step"], float((e["heldout"].get("ema") or e["heldout"]["raw"])["value"])) for e in log if "heldout" in e
        ]
    return training, heldout


def lines(runs: Runs) -> list[dict[str, Any]]:
    """A row for every run with its losses, drawn at one scale."""
    training, heldout = curves(runs)
    last = max((c[-1][0] for c in training.values() if c), default=0)
    shown = {name: sampled(curve, last) for name, curve in training.items() if curve}
    low = min((min(v) for v in shown.values()), default=0.0)
    high = max((sorted(v)[int(0.95 * (len(v) - 1))] for v in shown.values()), default=1.0)
    return [
        {
            "run": name,
            "training loss": "".join(BLOCKS[min(7, int(8 * max(0.0, v - low) / (high - low or 1)))] for v in values),
            "last": sum(v for _, v in training[name][-50:]) / len(training[name][-50:]),
            "held-out": heldout[name][-1][1] if heldout[name] else None,
            "best held-out": min((v for _, v in heldout[name]), default=None),
        }
        for name, values in shown.items()
    ]


def sampled(curve: Sequence[tuple[int, float]], last: int) -> list[float]:
    """Means of a curve over equal parts of ``last`` steps; a shorter curve has fewer parts.

    >>> sampled([(1, 4.0), (2, 2.0), (3, 1.0), (4, 1.0)], 160)
    [2.0]
    """
    parts: dict[int, list[float]] = {}
    for step, value in curve:
        parts.setdefault(min(WIDTH - 1, (step - 1) * WIDTH // max(1, last)), []).append(value)
    return [sum(values) / len(values) for _, values in sorted(parts.items())]


def write_page(runs: Runs, file: Path) -> None:
    """Write the comparison as a self-contained page."""
    order = list(runs)
    training, heldout = ({k: v for k, v in part.items() if v} for part in curves(runs))
    pictures = {name: shown for name, run in runs.items() if (shown := picture_of(run)) is not None}
    parts: list[Section] = []
    if pictures:
        parts.append(section("Samples", "pictures", order=order, pictures=pictures))
    drawn = [
        {"svg": plots.svg(plots.training(part, label, order=order), anchor), "id": anchor, "label": capitalised(label)}
        for part, label, anchor in ((training, "training loss", "training"), (heldout, "held-out loss", "held-out"))
        if part
    ]
    if drawn:
        parts.append(section("Losses", "figures", figures=drawn))
    for title, rows in (("Scores", score_rows(runs)), ("Settings that differ", differences(runs))):
        if rows:
            parts.append(section(title, "rows", rows=rows))
    write_text(file, page(parts, "Comparison of runs", ", ".join(order)))
