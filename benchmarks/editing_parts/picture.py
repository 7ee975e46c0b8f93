"""Draws success against what is kept, one line for each method, from the result file of the benchmark of edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(figures: Mapping[str, Any], path: Path) -> None:
    """The picture of a world of pictures; settings of a method are joined in the order of their changes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods: dict[str, list[tuple[float, float]]] = {}
    for row, seeds in figures.items():
        found = seeds["0"]
        if "success" in found:
            more = row.partition("), ")[2]  # guidance or a solver
            kind = f", {'guided' if more.startswith('CFG') else more}" if more else ""
            methods.setdefault(row.partition("(")[0] + kind, []).append((found["outside"], found["success"]))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    marks = "os^vD*XP"
    for i, (name, points) in enumerate(sorted(methods.items())):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marks[i % len(marks)], ls="-" if len(points) > 1 else "", label=name, alpha=0.8, ms=5, lw=1)
    axes.set(xscale="log", xlabel="mean change outside of the digit, in the range of pixels", ylabel="success")
    axes.axhline(0.9, color="grey", lw=0.8, ls=":")
    axes.axvline(0.02, color="grey", lw=0.8, ls=":")
    axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
