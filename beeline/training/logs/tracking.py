"""Trackers as callbacks: the log of a run under the same names for every experiment tracker."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beeline.core.errors import BeelineError
from beeline.core.files import read_json, write_json
from beeline.core.protocols.training import TrackedRun, Tracker, TrackerRun
from beeline.training.callbacks import CallbackBase, Previews

IDENTITIES = "trackers.json"  # in the directory of a run: the tracker's own runs, which a resumed run continues


class Tracked(CallbackBase):
    """Sends the entries of the log to an experiment tracker.

    ``train/loss``, ``train/lr``, ``train/terms/...``, ``heldout/ema/value``, ``heldout/best/ema``, ``previews/ema``,
    ``score/frechet-distance``, and messages as text.
    The tracker is opened with the first step that succeeds.  An error after that is one warning, and the training
    continues without the tracker.
    """

    name = "tracker"

    def __init__(self, tracker: Tracker, name: str, folder: str | Path, settings: Mapping[str, Any] | None = None):
        tracker.check()
        self.tracker, self.title, self.folder = tracker, name, Path(folder)
        self.settings = dict(settings or {})
        self._run: TrackerRun | None = None
        self._send = True  # whether the numbers of this step are sent
        self._failed = False

    def due(self, step: int, steps: int) -> bool:
        self._send = step % self.tracker.every == 0 or step in (1, steps)
        return False

    def evaluate(self, raw: Any, ema: Any, step: int) -> dict[str, Any]:
        return {}

    def record(self, entry: Mapping[str, Any]) -> None:
        """Send one entry; raises BeelineError where the tracker cannot be opened."""
        if self._failed or (self._run is None and "loss" not in entry):
            return
        step = int(entry.get("step", 0))
        run = self._run = self._run or self._open(step)
        with self._once():
            if "note" in entry:
                run.text(str(entry["note"]), step)
                return
            evaluated = any(isinstance(value, Mapping) and key not in TERMS for key, value in entry.items())
            if self._send or evaluated:
                run.scalars(dict(scalars(entry)), step)
            for kind, file in dict(entry.get(Previews.name, {})).items():
                run.preview(f"{Previews.name}/{kind}", self.folder / "samples" / file, step)

    def finish(self, scores: Mapping[str, float] | None = None) -> None:
        """Send the final scores, if any, and close the tracker's run."""
        if self._run is not None and not self._failed:
            with self._once():
                if scores:
                    self._run.scores({f"score/{slug(name)}": float(value) for name, value in scores.items()})
                self._run.close()

    def _open(self, step: int) -> TrackerRun:
        file, kind = self.folder / IDENTITIES, type(self.tracker).__name__
        known = dict(read_json(file)) if file.is_file() else {}
        identity = known.get(kind) if step > 1 else None
        try:
            run = self.tracker.open(TrackedRun(self.title, self.folder, self.settings, step, identity))
        except BeelineError:
            raise
        except Exception as error:  # of the service: no connection, no such project, no rights
            raise BeelineError(
                f"{kind} could not be opened ({_line(error)}), so the run would not be tracked; check its settings and "
                "the connection, or train without it"
            ) from error
        if run.identity is not None:
            write_json(file, known | {kind: run.identity})
        return run

    @contextmanager
    def _once(self) -> Iterator[None]:
        """Turn an error of the service into one warning; nothing more is sent after it."""
        try:
            yield
        except Exception as error:
            self._failed = True
            kind = type(self.tracker).__name__
            warnings.warn(f"{kind} failed ({_line(error)}); training continues without it", stacklevel=4)


TERMS = ("terms",)  # mappings of an entry that every step has


def scalars(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a log entry under the names of the trackers; lists are left to the log file.

    >>> dict(scalars({"step": 5, "loss": 0.5, "terms": {"a": 1}, "heldout": {"ema": {"value": 2, "by_bin": [1]}}}))
    {'train/loss': 0.5, 'train/terms/a': 1.0, 'heldout/ema/value': 2.0}
    """
    for key, value in entry.items():
        if key in ("step", "steps"):
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"train/{key}" if key in TERMS else key)
        else:
            yield from _numbers({key: value}, "train")


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}/{key}", float(value)


def slug(name: str) -> str:
    """The name of a score in letters, digits and hyphens, which every tracker accepts.

    >>> slug("Fréchet distance (8 evaluations)")
    'fréchet-distance-8-evaluations'
    """
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
