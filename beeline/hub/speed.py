"""Faster pretrained bundles without training: caches and compiled blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from beeline.core.errors import require
from beeline.networks.hub.caches import Cache
from beeline.networks.hub.copies import Cached, CachedExperts, Compiled, Counts
from beeline.networks.hub.family import Experts, Pretrained
from beeline.runs.bundle import Bundle, relabel


def cached(bundle: Bundle, cache: Cache) -> Bundle:
    """The bundle with a cache in its network, whose weights are shared; another cache is replaced.

    A run starts with an empty cache.  Conditional and unconditional predictions have caches of their own, so that
    guidance evaluates them one after the other.  Caches are for sampling: likelihoods and gradients need the bundle
    without one.

    Raises ValueError for a family for which the cache is not tested, and for a network with hooks, as after offloading.
    """
    changed = _changed(bundle, lambda field: Cached(field.field if isinstance(field, Cached) else field, cache))
    return relabel(changed, cache=repr(cache))


def compiled(bundle: Bundle, **options: Any) -> Bundle:
    """The bundle with the repeated blocks of its network compiled by ``torch.compile`` at their first use.

    Compilation is repeated for every shape: equal batches, such as a ``batch_size`` that divides the number of samples,
    compile once.  ``options`` are those of ``torch.compile``.  It combines with ``cached`` in either order.

    Raises ValueError for a network with hooks, as after offloading.
    """

    def change(field: Any) -> Any:
        if isinstance(field, Cached):
            return Cached(change(field.field), field.cache)
        return Compiled(field.field if isinstance(field, Compiled) else field, options)

    return relabel(_changed(bundle, change), compiled=True)


@contextlib.contextmanager
def counting(bundle: Bundle) -> Iterator[Counts]:
    """Count the evaluations of a cached bundle inside the block: those in full, and those that reuse something.

    Their sum is the number of samples times the evaluations of the sampler.
    """
    fields = [module for module in bundle.flow.field.modules() if isinstance(module, Cached)]
    require(
        bool(fields),
        "the evaluations of a bundle without a cache were to be counted; all of them are in full, as many as "
        "sampler.evaluations: add a cache with bl.hub.cached",
    )
    counts = Counts()
    for field in fields:
        field.listeners.append(counts)
    try:
        yield counts
    finally:
        for field in fields:
            field.listeners.remove(counts)


def _changed(bundle: Bundle, change: Callable[[Any], Any]) -> Bundle:
    """The bundle with its pretrained field, or both of its experts, changed."""
    field = bundle.flow.field
    require(
        isinstance(field, Pretrained | Experts | Cached | Compiled),
        f"the field of this bundle is {type(field).__name__}; caches and compilation by blocks are for pipelines of "
        "diffusers: load one with bl.load or bl.hub.from_pipeline",
    )
    if isinstance(field, Experts):
        high, low = change(field.high), change(field.low)
        kind = CachedExperts if isinstance(high, Cached) else Experts
        return replace(bundle, flow=replace(bundle.flow, field=kind(high, low, field.boundary)))
    return replace(bundle, flow=replace(bundle.flow, field=change(field)))
