"""The log of a run: one JSON object a line, a line a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from beeline.core.files import unwritten, write_text


class JsonLines:
    """An append-only log, one JSON object a line; lines of steps that a run has gone back behind are taken out."""

    def __init__(self, path: Path):
        self.path = path
        self.last: int | None = None  # the last step that was written, by this run
        self.notes: list[str] = []

    def __call__(self, entry: dict[str, Any]) -> None:
        if "loss" not in entry:  # a message goes into the line of the step that follows, so that every line is a step
            self.notes.append(str(entry.get("note", entry)))
            if self.last is not None and entry.get("step", self.last) < self.last:  # the run has gone back
                self.last = int(entry["step"])
                self._cut(self.last + 1)
            return
        if self.last is None and self.path.exists():
            self._cut(entry["step"])
        self.last = int(entry["step"])
        entry = entry | ({"notes": self.notes} if self.notes else {})
        self.notes = []
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({k: _plain(v) for k, v in entry.items()}) + "\n")
        except OSError as error:
            raise unwritten(self.path, error) from error

    def _cut(self, step: int) -> None:
        entries, damaged = _entries(self.path)
        if damaged:
            self.notes.append(f"{damaged} damaged lines of {self.path.name} were left out")
        write_text(self.path, "".join(json.dumps(e) + "\n" for e in entries if e["step"] < step))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; lines that were cut by a crash or damaged are left out."""
    return _entries(path)[0]


def _entries(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries of a log, and how many lines are none: an entry is an object with a step and a loss."""
    entries, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            good = (
                isinstance(entry, dict) and type(entry.get("step")) is int and type(entry.get("loss")) in (int, float)
            )
        except (json.JSONDecodeError, RecursionError):
            good = False
        if good:
            entries.append(entry)
        damaged += not good
    return entries, damaged


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.ndim == 0 else value.tolist()
    return value
