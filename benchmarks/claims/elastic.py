"""Shared by the claims about networks whose parts are trained together: digits of 8 x 8 pixels in four tokens, four
blocks.

Losses are those of held-out digits at fixed noise and times. Parts of networks and networks of their own have the
same first weights: a network of its own is the part of the untrained network, trained alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import beeline as bl
from beeline.networks.compressing.prune import Ordered
from beeline.networks.transformer.plans.elastic import SubNetwork, extracted
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import WHOLE, evenly
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.small_transformers import heldout, same, trained, transformer
from benchmarks.claims.storing import pictures

DEPTH, STEPS = 4, 150  # blocks; steps of training


def first(seed: Any) -> bl.Network:
    """The untrained network."""
    return transformer(same(bl.Rng(seed)), patch=4, heads=4, depth=DEPTH)


@functools.cache
def elastic(seed: Any, objective: Elastic, steps: int = STEPS) -> bl.Network:
    """The network after training by an objective, once for all claims of one seed."""
    return trained(first(seed), same(bl.Rng(seed)), objective, steps)


@functools.cache
def alone(seed: Any, part: Subset = WHOLE, steps: int = STEPS) -> Any:
    """A network of the size of a part, after training by itself."""
    net = first(seed) if part == WHOLE else extracted(first(seed), part.width, part.visits, part.feeds)
    return trained(net, same(bl.Rng(seed)), steps=steps)


def loss(net: Any, part: Subset = WHOLE) -> float:
    """The held-out loss of a part of a network."""
    return heldout(SubNetwork(net, part.width, part.visits, feeds=part.feeds), bl.Rng(0))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sized(width: float, depth: float) -> Subset:
    """A part of a share of the width and of the depth."""
    return WHOLE if width == depth == 1 else Subset(width, evenly(DEPTH, depth))


def losses(net: Any, parts: Sequence[Subset]) -> list[float]:
    return [loss(net, part) for part in parts]


def ordered(net: Any, rng: bl.Rng) -> Any:
    """The network with its heads and hidden channels in the order of their scores."""
    method, probe = Ordered(), pictures(net, rng.fork("states"))
    return method.apply(net, method.plan(net, probe), probe, rng)
