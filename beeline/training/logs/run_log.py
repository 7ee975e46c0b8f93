"""The log of a run: JSON lines, one object per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from beeline.core.files import unwritten, write_text
from beeline.core.protocols.training import Log


def combined(*logs: Log) -> Log:
    """A log that passes every entry to all ``logs``."""

    def log(entry: dict[str, Any]) -> None:
        for one in logs:
            one(entry)

    return log


class JsonLines:
    """A log in JSON lines; lines of later steps are removed when a run returns to an earlier step."""

    def __init__(self, path: Path):
        self.path = path
        self.last: int | None = None  # the last step that this run has written
        self.notes: list[str] = []

    def __call__(self, entry: dict[str, Any]) -> None:
        if "loss" not in entry:  # a note; it is written with the next step
            self.notes.append(str(entry.get("note", entry)))
            if (
                self.last is not None and entry.get("step", self.last) < self.last
            ):  # the run has returned to an earlier step
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
            self.notes.append(f"{damaged} damaged lines of {self.path.name} were removed")
        write_text(self.path, "".join(json.dumps(e) + "\n" for e in entries if e["step"] < step))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log, one per step; damaged lines are skipped."""
    return _entries(path)[0]


def _entries(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries of a log, which are objects with a step and a loss, and the number of other lines."""
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
            if "rate" in entry:  # logs of version 0.1
                entry["lr"] = entry.pop("rate")
            entries.append(entry)
        damaged += not good
    return entries, damaged


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item() if value.ndim == 0 else value.tolist()
    return value
