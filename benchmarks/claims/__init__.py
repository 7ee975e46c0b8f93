"""Main claims of the methods, measured on small exact or real problems.

One file ``cID.py`` per method with ``METHOD`` (its name), ``CLAIM`` (the claim in words) and ``measure(rng)``, which
returns the findings of one seed: a baseline, the figure with the method, and a trivial control.  ``SEEDS`` is the
number of seeds where it is more than the default, ``SLOW`` the reason why it takes more than two minutes.
``verdict.py`` computes the verdict over all seeds.  Claims that do not hold at this size are reported too.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from beeline import Rng
from beeline.core.errors import nearest, require
from benchmarks.claims.verdict import Finding, judge

SEEDS = 5  # Student's quantile is 2.8 standard errors with five seeds, 4.3 with three
FEWEST = 3
LONGEST = 120.0  # seconds for all seeds of one id on one core


def ids() -> list[str]:
    """The ids of all methods that have a claim file: a number, or a name."""
    names = (m.name[1:] for m in pkgutil.iter_modules(__path__) if m.name[0] == "c")
    return sorted(name.removeprefix("_") for name in names if name.isdigit() or name.startswith("_"))


def file_of(method: str) -> str:
    """The name of the module of a method: c109, or c_pdd."""
    return f"c{method}" if method.isdigit() else f"c_{method}"


def claim(method: str) -> Any:
    """The module with the claims of one method."""
    require(method in ids(), f"there is no claim file for {method!r}; {nearest(method, ids())}")
    return importlib.import_module(f"benchmarks.claims.{file_of(method)}")


def run(method: str, seeds: int | None = None, started: Callable[[int], None] = lambda seed: None) -> dict[str, Any]:
    """Measure the claims of one method with several seeds; ``started`` is called with every seed."""
    module = claim(method)
    count = max(vars(module).get("SEEDS", SEEDS), FEWEST) if seeds is None else seeds
    require(count >= FEWEST, f"got {seeds} seeds; a verdict needs {FEWEST} or more. Give --seeds {FEWEST}.")
    begin, results = processor_seconds(), []
    for seed in range(count):
        started(seed)
        results.append(list(module.measure(Rng(seed).fork("claim", method))))
    seconds = processor_seconds() - begin
    return {
        "method": module.METHOD,
        "claim": module.CLAIM,
        "measured": " ".join((module.__doc__ or "").split()),
        "slow": vars(module).get("SLOW"),
        "seeds": list(range(count)),
        "seconds": round(seconds, 1),
        "findings": [_row(group) for group in zip(*results, strict=True)],
    }


def processor_seconds() -> float:
    """Seconds of the processor that this process and its ended children have used: other processes do not count."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _row(group: Sequence[Finding]) -> dict[str, Any]:
    """One finding over all seeds."""
    verdict, method, control = judge(group)
    return {
        "compares": group[0].compares,
        "better": group[0].better,
        "baseline": _spread([f.baseline for f in group]),
        "figure": _spread([f.figure for f in group]),
        "control": {"is": group[0].trivial, "verdict": control.verdict, **_spread([f.control for f in group])},
        "gain": _short(method.gain),
        "standard_error": _short(method.error),
        "quantile": round(method.quantile, 3),
        "verdict": verdict,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    finite = [v for v in values if abs(v) < float("inf")]
    whole = len(finite) == len(values)
    return {
        "mean": _short(fmean(values)) if whole else None,
        "deviation": _short(stdev(values)) if whole else None,
        "values": [_short(v) for v in values],
    }


def _short(value: float) -> float | None:
    """Six digits; None for values that JSON cannot represent."""
    return float(f"{value:.6g}") if abs(value) < float("inf") else None
