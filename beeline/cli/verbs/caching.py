"""``beeline fit-solver --caches``: a cache for a pretrained model, by measured change and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beeline.cli.commands import sampler_of
from beeline.cli.planning import loading
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device
from beeline.core.types import map_cond
from beeline.hub.loading import load
from beeline.hub.trading import choose_cache

COMPARED = 2  # samples


def choose(
    name: str, limit: float, cond: Any, seed: int, pairs: Sequence[str], device: Device = AUTO
) -> dict[str, Any]:
    """Measure the caches of a pretrained model on ``COMPARED`` samples; ``use`` is the setting of the fastest one."""
    how, rest = loading(pairs)
    require(
        "cache" not in how,
        f"load.cache={how.get('cache')} was given with --caches, which compares caches with the model without one: "
        "leave it out",
    )
    bundle = load(name, device=device, **how)
    x0 = bundle.start(range(seed, seed + COMPARED))
    known = map_cond(lambda leaf: leaf.to(bundle.device), bundle.condition(cond, COMPARED))
    _, rows = choose_cache(bundle, x0, known, change=limit, sampler=sampler_of(bundle, rest))
    best = next(row.cache for row in rows if row.chosen)
    found: dict[str, Any] = {
        row.cache: f"{row.seconds:.3g} s, change {row.change:.2g}, {row.reused} evaluations reuse something"
        for row in rows
    }
    return found | {"use": "no cache" if best == rows[0].cache else f"--set 'load.cache={best}'"}
