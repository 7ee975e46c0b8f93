"""Experiment trackers of a run, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE, fold
from beeline.core.errors import nearest, require
from beeline.training.logs.tracking import Tracked


def trackers(names: Sequence[str], out: Path, run: Any) -> list[Tracked]:
    """The trackers of ``--log``, such as wandb or wandb(project=digits); refused before any work if one cannot work."""
    known = CATALOGUE["trackers"]
    found = []
    for name in names:
        word = name.partition("(")[0].strip()
        require(
            any(fold(word) == fold(one) for one in known),
            f"--log got {name!r}, which is no tracker; {nearest(word, [one.lower() for one in known])}",
        )
        tracker = config.parse(name if "(" in name else f"{name}()", "trackers")
        found.append(Tracked(tracker, out.name, out, config.describe(run)))
    return found


@contextmanager
def tracked(names: Sequence[str], out: Path, run: Any, scores: Mapping[str, float]) -> Iterator[list[Tracked]]:
    """The trackers of ``--log``; they get ``scores`` when the block ends, and are closed."""
    opened = trackers(names, out, run)
    try:
        yield opened
    finally:
        for tracker in opened:
            tracker.finish(scores)
