"""Digits of 8 x 8 pixels in four tokens, four blocks: four parts (equal shares of width and depth), all of them in
each of 100 steps, with their own losses and their differences from the whole. Held-out losses of the four are
compared with those of networks that were trained alone for 100 steps each, and of one network with four random parts
in every step and their own losses. Parts that are not in the list are compared with the mean of their neighbours.
Embeddings of texts are not measured."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import AnyPart, Listed
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import alone, elastic, first, loss, losses, mean, sized
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Starbucks: a fixed list of widths and depths"
CLAIM = "A fixed list of parts is as good as small networks that were trained alone, and better than random parts."
SHARES, STEPS = (0.25, 0.5, 0.75, 1.0), 100
LIST = Listed(tuple((s, s) for s in SHARES))


def four(visits: int, rng: bl.Rng) -> list[Subset]:
    """Random parts of a step."""
    return [AnyPart(0.25, 0.0)(visits, rng.fork(k))[0] for k in range(4)]


def measure(rng: bl.Rng) -> list[Finding]:
    seed, parts = rng.seed, [sized(s, s) for s in SHARES]
    net = elastic(seed, Elastic(draws=LIST, distilled=1.0), STEPS)
    drawn = elastic(seed, Elastic(draws=four), STEPS)
    plain = alone(seed, steps=STEPS)
    own, alone_each = losses(net, parts), [loss(alone(seed, part, STEPS)) for part in parts]
    between = [sized(a, b) for a, b in zip((0.25, 0.5, 0.5, 0.75), (0.5, 0.25, 0.75, 0.5), strict=True)]
    neighbours = (own[0] + 2 * own[1] + own[2]) / 4
    random, untrained = mean(losses(drawn, parts)), mean(losses(first(seed), parts))
    return [
        finding("mean of the list (figure) against networks trained alone, at most 5% worse", 1.05 * mean(alone_each),
                mean(own), mean(losses(plain, parts)), "parts of a network trained whole"),
        finding("mean of the list (figure) against four random parts in every step", random, mean(own), untrained),
        finding("parts that are not in the list (figure) against the mean of their neighbours, at most 5% worse",
                1.05 * neighbours, mean(losses(net, between)), untrained),
    ]  # fmt: skip
