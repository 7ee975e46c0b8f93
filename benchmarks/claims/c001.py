"""Two rounds on the ring; the pairs of the second are 20 Heun steps of the first. The control is trained on them too,
but with noises and data paired by chance: all that is lost is the pairing."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.evaluation.trajectory import straightness
from benchmarks.claims.toys import RING, draw, even, finding, learn, network, noise, points, w2
from benchmarks.claims.verdict import Finding

METHOD = "Rectified flow: reflow"
CLAIM = "Reflow never raises any convex transport cost and makes one Euler step usable."
SHUFFLED, CHANCE = "second round on shuffled pairs", "the ends, paired by chance"


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    first = learn(network(rng), bl.objectives.FlowMatching(), data, rng.fork("first"))
    start = rng.fork("pairs").normal(torch.empty(6000, 2))
    end, mixed = draw(first, start, 20, solver=bl.solvers.HEUN), rng.fork("mixed").permutation(6000)
    paired, nets = bl.objectives.FlowMatching(coupling=bl.couplings.Paired()), [first]
    for x in (start, start[mixed]):
        nets.append(learn(network(rng), paired, bl.Batch(end, x), rng.fork("second")))
    walks = [straightness(bl.Flow(net), x0, bl.Sampler(20)) for net in nets]
    one = [w2(draw(net, x0, 1), real) for net in nets]
    quartic = []  # the convex cost |x|^4, beside the squared one of ``walks``
    for net in nets:
        quartic.append(float((draw(net, x0, 20, solver=bl.solvers.HEUN) - x0).square().sum(1).square().mean()))
    independent = float((real - x0[rng.fork("apart").permutation(len(x0))]).square().sum(1).mean())
    return [
        finding("relative straightness of the paths: second round (figure) against first",
                *(w.relative for w in walks), SHUFFLED),
        finding("E|Z1 - Z0|^2: second round (figure) against independent pairs", independent, walks[1].transport,
                float((end[mixed] - start).square().sum(1).mean()), CHANCE),
        finding("E|Z1 - Z0|^4: second round (figure) against first", quartic[0], quartic[1],
                float((end[mixed] - start).square().sum(1).square().mean()), CHANCE),
        finding("W2 of one Euler step to the ring: second round (figure) against first", *one, SHUFFLED),
    ]  # fmt: skip
