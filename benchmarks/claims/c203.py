"""The ring: 4,000 exact pairs of the flow, and students of one evaluation by regression on them, 600 steps. An
equilibrium network (8,600 weights, 20 iterations of its block) against a residual network with five times as many
weights, and against one with as many; rmse to the paired end point. The paper's blocks are transformers."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.maps.equilibrium import Equilibrium
from benchmarks.claims.games import shared
from benchmarks.claims.toys import RING, exact_end, finding, learn, network, noise, rmse, sample
from benchmarks.claims.verdict import Finding

METHOD = "Generative equilibrium transformer: one-step students with an equilibrium block"
CLAIM = "A weight-tied equilibrium student matches a network of five times its size, on stored pairs."
SEEDS, STEPS = 3, 600


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    start, test = noise(rng.fork("pairs"), 4000), noise(rng)
    pairs, wanted = bl.Batch(exact_end(RING, start), start), exact_end(RING, test)
    objective = bl.objectives.FlowMatching(coupling=bl.couplings.Paired(), times=bl.times.At(0.0))
    with rng.fork("network").ambient():
        tied = bl.Network(Equilibrium(2, width=64))
    count = sum(p.numel() for p in tied.parameters())
    small, large = (network(rng, width=_width(count * n)) for n in (1, 5))

    def error(net: Any) -> float:
        made = learn(net, objective, pairs, rng.fork("net"), steps=STEPS, batch_size=128)
        return rmse(sample(made, test, 1), wanted)

    raw = rmse(test, wanted)
    figure = error(tied)
    return [
        finding("rmse: equilibrium (figure) against a residual network of five times its size, 10% worse",
                1.1 * error(large), figure, raw, "the noise itself"),
        finding("rmse: equilibrium (figure) against a residual network of its size", error(small), figure, raw,
                "the noise itself"),
    ]  # fmt: skip


def _width(count: int) -> int:
    """The width of a residual network of three blocks with about so many weights."""

    def off(width: int) -> int:
        return abs(sum(p.numel() for p in network(bl.Rng(0), width=width).parameters()) - count)

    return min(range(8, 200, 2), key=off)
