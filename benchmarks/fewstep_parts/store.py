"""The result file: one entry for a student, written as soon as it is measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import report

FILE = report.RESULTS / "fewstep.json"


def read(path: Path = FILE) -> dict[str, Any]:
    """The figures of the file by world; {} if there is no file."""
    found: dict[str, Any] = report.read(path).get("figures", {})
    return found


def entry(world: str, name: str, seed: int, path: Path = FILE) -> dict[str, Any]:
    """What is stored for a row of a world and a seed; {} if nothing is."""
    found: dict[str, Any] = read(path).get(world, {}).get(name, {}).get(str(seed), {})
    return found


def current(world: str, name: str, seed: int, settings: dict[str, Any], path: Path = FILE) -> bool:
    """Whether a row was measured without error with these settings."""
    found = entry(world, name, seed, path)
    return bool(found) and "error" not in found and found["settings"] == settings


def add(world: str, name: str, seed: int, found: dict[str, Any], path: Path = FILE) -> None:
    """Write one entry; all others are unchanged, also those that another process writes."""
    stamped = {
        **found,
        "machine": report.machine(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": report.commit(),
    }
    with report.alone(path):
        figures = read(path)
        figures.setdefault(world, {}).setdefault(name, {})[str(seed)] = stamped
        seeds = sorted({int(s) for rows in figures.values() for row in rows.values() for s in row})
        report.write(path.stem, figures, seeds, path)
