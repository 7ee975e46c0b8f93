"""A flow of the ring with classes, half of which move to one style and half to another. Mixtures of three changes in
every layer, with a sigmoid of a router of every row; the changes are of different kinds (low rank, drawn entries,
shared tiles), or three of low rank with at least as many numbers. W2 distances within the classes after 150 steps."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.adapters.delta import Delta, LoRA
from beeline.networks.adapters.members.blocks import MiSS
from beeline.networks.adapters.members.mixture import Mixture, Token
from beeline.networks.adapters.members.sparse import Sparse
from benchmarks.claims.deltas import numbers
from benchmarks.claims.mixed import base, data, distance, tune, two_styles, with_delta
from benchmarks.claims.verdict import Finding

METHOD = "MoA: mixture of changes of different kinds"
CLAIM = "Experts of different kinds are better than experts of one kind at fewer numbers, and do not collapse."


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed

    def trained(delta: Delta) -> tuple[Any, int]:
        net = with_delta(delta, seed)
        count = numbers(net)
        return tune(net, data(seed, two_styles), seed), count

    mixed, count = trained(Mixture((LoRA(2), Sparse(0.05), MiSS(4)), Token()))
    rank, single_rank = 1, 1
    while numbers(with_delta(Mixture((LoRA(rank),) * 3, Token()), seed)) < count:
        rank += 1
    while numbers(with_delta(LoRA(single_rank), seed)) < count:
        single_rank += 1
    equal, more = trained(Mixture((LoRA(rank),) * 3, Token()))
    single, _ = trained(LoRA(single_rank))
    found = [distance(net, seed, two_styles) for net in (mixed, equal, single, base(seed).field)]
    return [
        Finding(f"W2: three kinds of {count} numbers (figure) against one kind of {more}", found[1], found[0], found[3],
                "not adapted"),
        Finding(f"W2: three kinds with gates (figure) against LoRA({single_rank}) without", found[2], found[0],
                found[3], "not adapted"),
    ]  # fmt: skip
