"""The choice of a cache by a measured trade of output change against seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.hub.speed import cached, counting
from beeline.networks.hub.caches import AttentionBroadcast, Cache, FasterCache, FirstBlock, TaylorSeer
from beeline.networks.hub.family import Pretrained
from beeline.runs.bundle import Bundle, relabel
from beeline.sampling.sampler import Sampler

CANDIDATES: tuple[Cache, ...] = (
    *(FirstBlock(threshold) for threshold in (0.05, 0.1, 0.2)),
    *(TaylorSeer(every, whole=whole) for every in (2, 3, 5) for whole in (False, True)),
    *(AttentionBroadcast(every) for every in (2, 3)),
    *(FasterCache(every) for every in (2, 3)),
)
"""Usual settings of the caches that need no figures of a checkpoint."""


@dataclass(frozen=True)
class Trade:
    """What a cache costs and saves in runs of one sampler."""

    cache: str  # its description; "none" for the plain bundle
    change: float  # root mean square of the difference to the plain samples, over that of the plain samples
    seconds: float  # of one run, the median
    reused: int  # evaluations that reuse something
    chosen: bool = False


def choose_cache(
    bundle: Bundle,
    x0: Tensor,
    cond: Cond = None,
    *,
    change: float = 0.05,
    candidates: Sequence[Cache] | None = None,
    sampler: Sampler | None = None,
    rounds: int = 3,
) -> tuple[Bundle, list[Trade]]:
    """The bundle with the fastest cache whose samples change by at most ``change``, and the figures of all candidates.

    Every candidate makes samples from the noise ``x0`` [B,*S] with ``sampler`` (default: that of the bundle), at equal
    evaluations.  Runs of all candidates alternate ``rounds`` times, after one that is not timed.  The bundle is
    returned as it is where no cache within the limit is faster.  The figures are recorded in its lineage as "caches".
    By default the candidates are those of ``CANDIDATES`` that are tested for its family.

    Raises ValueError for candidates of other families, and for a bundle that is not from a pipeline.
    """
    require(
        change >= 0 and rounds >= 1,
        f"choose_cache got change={change} and rounds={rounds}; the change is relative to the samples, and every "
        "candidate is timed: set change >= 0, such as 0.05, and rounds >= 1",
    )
    run = sampler or bundle.sampler
    given = tested(bundle) if candidates is None else list(candidates)
    require(
        bool(given),
        "a cache was to be chosen for a bundle for which none is tested; caches are for pipelines of the families in "
        "the documentation of each cache: leave the choice out",
    )
    bundles = [cached(bundle, cache) for cache in given]
    plain = run(bundle.flow, x0, cond)
    changes, reused = [0.0], [0]
    for quick in bundles:
        with counting(quick) as counts:
            found = run(quick.flow, x0, cond)
        changes.append(float((found - plain).square().mean().sqrt() / plain.square().mean().sqrt()))
        reused.append(counts.reused)
    every = [bundle, *bundles]
    taken = [[seconds(run, each, x0, cond) for each in every] for _ in range(rounds)]
    times = [median(column) for column in zip(*taken, strict=True)]
    fits = [i for i in range(len(every)) if i == 0 or changes[i] <= change]
    best = min(fits, key=lambda i: times[i])
    names = ["none", *(repr(cache) for cache in given)]
    rows = [Trade(names[i], changes[i], times[i], reused[i], i == best) for i in range(len(every))]
    return relabel(every[best], caches=[asdict(row) for row in rows]), rows


def tested(bundle: Bundle) -> list[Cache]:
    """The candidates that are tested for the family of a bundle."""
    families = {field.family.name for field in bundle.flow.field.modules() if isinstance(field, Pretrained)}
    return [cache for cache in CANDIDATES if families and families <= set(cache.families)]


def seconds(run: Sampler, bundle: Bundle, x0: Tensor, cond: Any) -> float:
    """Seconds of one run, after all work on an accelerator is done."""
    wait = torch.cuda.synchronize if x0.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    run(bundle.flow, x0, cond)
    wait()
    return time.perf_counter() - start
