"""The trade between what an edit changes and what it keeps, over the values of a setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from beeline.config import build as config
from beeline.core.errors import require
from beeline.core.protocols.editing import Edit
from beeline.runs.editing.edit import Settings, edit
from beeline.sampling.search.fronts import nondominated

if TYPE_CHECKING:  # a bundle imports this module
    from matplotlib.figure import Figure

    from beeline.runs.bundle import Bundle

Success = Callable[[Any], Any]
"""Edited data in the user's form -> how well each fits the new condition [N], larger is better."""


@dataclass(frozen=True)
class Point:
    """One edit of a front."""

    method: str
    value: Any  # of the setting
    change: float  # the mean success; without a measure of it, the distance inside the region
    kept: float  # distance outside the region; without one, of the whole
    evaluations: float
    best: bool = False  # no other point changes as much and keeps more, or keeps as much and changes more


@dataclass(frozen=True)
class Front:
    """Points of change against preservation; distances are in the units of ``Edited``."""

    points: tuple[Point, ...]
    measured: bool  # whether ``change`` is a measure of success

    @property
    def best(self) -> tuple[Point, ...]:
        """The points of the Pareto front, from the one that keeps most."""
        return tuple(sorted((p for p in self.points if p.best), key=lambda p: p.kept))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The points as plain data."""
        return [
            {"method": p.method, "value": p.value, "change": p.change, "kept": p.kept, "evaluations": p.evaluations,
             "best": p.best}
            for p in self.points
        ]  # fmt: skip

    def plot(self, path: str | Path | None = None) -> Figure:
        """Change against the distance of what is kept, every method as a line, with the front; saved to ``path``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for method in dict.fromkeys(p.method for p in self.points):
            own = [p for p in self.points if p.method == method]
            (line,) = axes.plot([p.kept for p in own], [p.change for p in own], "o-", label=method, markersize=3)
            for p in own:
                axes.annotate(f"{p.value}", (p.kept, p.change), color=line.get_color(), fontsize=7)
        axes.plot(
            [p.kept for p in self.best], [p.change for p in self.best], "o", markersize=9, markerfacecolor="none",
            markeredgecolor="black", label="Pareto front",
        )  # fmt: skip
        axes.set_xlabel("distance of what is to be kept")
        axes.set_ylabel("success" if self.measured else "distance inside the region")
        axes.legend(fontsize=8)
        if path is not None:
            figure.savefig(path)
        return figure


def front(
    bundle: Bundle,
    methods: Mapping[str, Edit],
    setting: str,
    values: Sequence[Any],
    given: Any,
    old: Any,
    new: Any,
    how: Settings,
    success: Success | None = None,
) -> Front:
    """The trade of edits over the values of a setting, such as "start" or "inversion.guidance"; see ``edit_front``."""
    require(
        len(methods) > 0 and len(values) > 0,
        f"a front of {len(methods)} methods and {len(values)} values has no points; give at least one of each, as "
        '"FlowEdit" and (0.2, 0.4, 0.6)',
    )
    require(
        how.preserve is None,
        f"preserve={how.preserve} was given for a front; it refuses edits, and a front shows them all: leave it out",
    )
    varied = [(n, v, config.change(method, {setting: v})) for n, method in methods.items() for v in values]
    found = []
    for name, value, method in varied:
        made = edit(bundle, method, given, old, new, how)
        unit = made.span
        if success is None:
            change = float(made.outcome.change.mean()) / unit
        else:
            change = float(torch.as_tensor(success(made.samples)).double().mean())
            require(
                math.isfinite(change),
                "the measure of success returned a mean that is not finite; return one finite number for each of the "
                f"{len(made.outcome.x)} data",
            )
        kept = float(made.outcome.kept.mean()) / unit
        found.append(Point(name, value, change, kept, made.outcome.evaluations))
    best = nondominated(torch.tensor([[-p.change, p.kept] for p in found], dtype=torch.float64)).tolist()
    points = (Point(p.method, p.value, p.change, p.kept, p.evaluations, b) for p, b in zip(found, best, strict=True))
    return Front(tuple(points), success is not None)
