"""Experiment trackers: TensorBoard and Weights & Biases as logs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import extra
from beeline.core.protocols.training import Log


def combined(*logs: Log) -> Log:
    """A log that passes every entry to all ``logs``."""

    def log(entry: dict[str, Any]) -> None:
        for one in logs:
            one(entry)

    return log


def numbers(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an entry by name, ``key/key/index`` for nested mappings and lists."""
    for key, value in entry.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, Mapping):
            yield from numbers(value, f"{name}/")
        elif isinstance(value, list):
            yield from numbers({str(i): v for i, v in enumerate(value)}, f"{name}/")


def without_step(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without its step, which trackers take as an argument of its own."""
    return {name: value for name, value in entry.items() if name not in {"step"}}


class TensorBoard:
    """A log for TensorBoard: numbers as scalars, notes as text."""

    def __init__(self, folder: str | Path):
        extra("tensorboard", "trackers")
        self._module = extra("torch.utils.tensorboard", "trackers")
        self._folder = str(folder)

    @functools.cached_property
    def _writer(self) -> Any:
        return self._module.SummaryWriter(self._folder)  # creates the folder, so not before the first entry

    def __call__(self, entry: dict[str, Any]) -> None:
        step = entry.get("step", 0)
        for name, value in numbers(without_step(entry)):
            self._writer.add_scalar(name, value, step)
        if "note" in entry:
            self._writer.add_text("note", entry["note"], step)
        self._writer.flush()


class WeightsAndBiases:
    """A log for Weights & Biases; ``settings`` are passed to ``wandb.init`` (project, name, mode)."""

    def __init__(self, **settings: Any):
        self._run: Any = extra("wandb", "trackers").init(**settings)

    def __call__(self, entry: dict[str, Any]) -> None:
        found = dict(numbers(without_step(entry)))
        if found:
            self._run.log(found, step=entry.get("step", 0))
