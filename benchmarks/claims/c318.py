"""Digits of 8 x 8 pixels in four tokens, four blocks: every block draws one of four widths of its feed in every step,
200 steps. For three limits of the hidden channels (0.3, 0.5 and 0.7 of all), evolution with 80 of 256 sizes finds the
part with the least loss of 256 training digits at common noise. Held-out losses are compared with those of networks
of the same sizes that were trained alone for as many steps, and with the mean of eight random sizes near the limit.
Kinds of blocks and numbers of bits are not chosen."""

from __future__ import annotations

import functools

import torch

import beeline as bl
from beeline.networks.compressing.removal.search import evolved
from beeline.networks.transformer.plans.elastic import SubNetwork
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.subsets.draws import Nested
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import DEPTH, alone, elastic, loss, losses, mean
from benchmarks.claims.small_transformers import MATCHING, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Single path one-shot: one training, and evolution under any limit"
CLAIM = "One set of weights, trained once, serves any limit."
DRAWS = Nested(apart=True)
LIMITS, NEAR = (0.3, 0.5, 0.7), 0.85


def size(genes: tuple[int, ...]) -> float:
    """The share of the hidden channels."""
    return mean([DRAWS.widths[g] for g in genes])


def part(genes: tuple[int, ...]) -> Subset:
    return Subset(feeds=tuple(DRAWS.widths[g] for g in genes))


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    net, plain = elastic(seed, Elastic(draws=DRAWS)), alone(seed)
    batch = bl.Batch(digits()[0].x1[:256])

    @functools.cache
    def error(genes: tuple[int, ...]) -> float:
        with torch.no_grad():
            return float(MATCHING(SubNetwork(net, feeds=part(genes).feeds), batch, rng.fork("common")).value)

    found, others = [], []
    for limit in LIMITS:
        best = evolved([len(DRAWS.widths)] * DEPTH, error, size, limit, (0,) * DEPTH, population=10, generations=8)
        assert best is not None and size(best) <= limit
        found.append(part(best))
        drawn = (tuple(rng.fork(limit, k).integers(len(DRAWS.widths), DEPTH).tolist()) for k in range(10_000))
        near = [part(g) for g in drawn if NEAR * limit <= size(g) <= limit][:8]
        others.append(losses(net, near))
    own, single = mean(losses(net, found)), mean([loss(alone(seed, p)) for p in found])
    return [
        finding("mean of three limits: parts (figure) against networks trained alone, at most 5% worse", 1.05 * single,
                own, mean(losses(plain, found)), "parts of a network trained whole"),
        finding("mean of three limits: evolution (figure) against random sizes near the limit",
                mean([mean(o) for o in others]), own, mean([max(o) for o in others]), "the worst of them"),
    ]  # fmt: skip
