"""Headline claims of the methods, measured again on small exact or real problems with fixed seeds.

One file ``cID.py`` per method with ``METHOD`` (its name) and ``measure(rng)``, which gives one finding or a list of
them: ``{"compares", "baseline", "figure", "better"}``.  A claim that does not hold at this size is a finding and
stays in the table.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from typing import Any

from beeline import Rng
from beeline.core.types import nearest, require


def ids() -> list[str]:
    """The ids of all methods that have a claim file."""
    return sorted(m.name[1:] for m in pkgutil.iter_modules(__path__) if m.name.startswith("c"))


def run(method: str) -> list[dict[str, Any]]:
    """Measure one method's claims; a finding holds when the figure is better than the baseline."""
    require(method in ids(), f"there is no claim file for {method!r}; {nearest(method, ids())}")
    module = importlib.import_module(f"benchmarks.claims.c{method}")
    begin = time.perf_counter()
    found = module.measure(Rng(0).fork("claim", method))
    seconds = time.perf_counter() - begin
    findings = found if isinstance(found, list) else [found]
    rows = []
    for finding in findings:
        baseline, figure, better = float(finding["baseline"]), float(finding["figure"]), finding["better"]
        rows.append(
            {
                "id": method,
                "method": module.METHOD,
                **finding,
                "baseline": float(f"{baseline:.6g}"),
                "figure": float(f"{figure:.6g}"),
                "holds": figure < baseline if better == "lower" else figure > baseline,
                "seconds": round(seconds / len(findings), 2),
            }
        )
    return rows
