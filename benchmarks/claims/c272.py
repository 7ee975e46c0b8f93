"""Digits of 8 x 8 pixels in four tokens, four blocks: 16 parts (four widths of heads and channels, four depths), one
in every step with equal chances, 150 steps. The four parts of equal shares of width and depth are compared with
networks that were trained alone for as many steps; the whole likewise. A network that was trained whole for 150 steps
goes on for 100 with parts, with its heads and channels in order or not. The 160 parts of language models are not
measured."""

from __future__ import annotations

import copy

import beeline as bl
from beeline.objectives.subsets.draws import Listed
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import alone, elastic, loss, losses, mean, ordered, sized
from benchmarks.claims.small_transformers import same, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "SortedNet: nested parts, one in every step"
CLAIM = "Many parts of one network keep 96 percent of the quality of networks that were trained alone."
SHARES = (0.25, 0.5, 0.75, 1.0)
GRID = tuple((width, depth) for width in SHARES for depth in SHARES)
OBJECTIVE = Elastic(draws=Listed(GRID, 1))


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    net, plain = elastic(seed, OBJECTIVE), alone(seed)
    diagonal, grid = [sized(s, s) for s in SHARES], [sized(*pair) for pair in GRID]
    own, whole = losses(net, diagonal), losses(plain, diagonal)
    single = [loss(alone(seed, part)) for part in diagonal]
    starts = copy.deepcopy(plain), ordered(plain, rng)
    after = [mean(losses(trained(start, same(rng), OBJECTIVE, 100), grid)) for start in starts]
    return [
        finding("mean of four parts (figure) against networks trained alone, divided by 0.96", mean(single) / 0.96,
                mean(own), mean(whole), "parts of a network trained whole"),
        finding("the whole (figure) against a network trained alone, at most 5% worse", 1.05 * single[-1], own[-1],
                whole[1], "half of a network trained whole"),
        finding("mean of 16 parts after 100 steps more: start in order (figure) against as it is", after[0], after[1],
                mean(losses(plain, grid)), "before these steps"),
    ]  # fmt: skip
