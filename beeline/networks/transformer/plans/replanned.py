"""A trained network under another plan."""

from __future__ import annotations

from beeline.core.errors import require
from beeline.core.rng import Rng
from beeline.networks.skipping import N, sharing_copy
from beeline.networks.transformer.plans.elastic import transformer_in
from beeline.networks.transformer.plans.plan import Plan


def replanned(field: N, plan: Plan, rng: Rng = Rng(0)) -> N:  # noqa: B008 - a key
    """A field with the same weights whose flow transformer visits its blocks by another plan.

    ``field`` is not changed.  Weights of the plan itself, such as those of a router, are new.  Raises ValueError for a
    plan that does not fit the mixer, and for another number of visits of a network with long skips.

    >>> import torch
    >>> from beeline.networks.dit import DiT
    >>> from beeline.networks.transformer.plans.spectral import SpectralShrink
    >>> net = DiT((1, 8, 8), width=16, depth=3, heads=2)
    >>> replanned(net, SpectralShrink()).block[0].tell.weight is net.block[0].tell.weight
    True
    """
    made: N = sharing_copy(field)
    inner = transformer_in(made, "replanned")
    before = len(inner.visits)
    inner.plan, inner.settings = plan, {**inner.settings, "plan": plan}
    require(
        not inner.skips or len(inner.visits) == before,
        f"a network with long skips between its {before} visits got a plan of {len(inner.visits)}; the skips belong to "
        "visits: use a plan with as many, or DiT",
    )
    with rng.ambient():
        inner.visiting()
    weight = inner.inp.weight
    inner.visit.to(weight.device, weight.dtype).train(inner.training)
    return made
