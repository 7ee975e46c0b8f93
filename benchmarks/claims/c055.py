"""A small version of super-resolution: a point of the ring given its position plus noise of unit variance. W2 distance
between the pairs (given, sampled) and (given, true)."""

from __future__ import annotations

import torch

import beeline as bl
from benchmarks.claims.toys import RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "DREAM: self-rectified states"
CLAIM = "Two to three times faster training and far fewer sampling steps at equal quality of super-resolution."
GIVEN = {"given": {"size": 2}}


def measure(rng: bl.Rng) -> list[Finding]:
    data, (real, _), x0 = points(rng).x1, even(RING, rng), noise(rng)
    data = bl.Batch(data, cond={"given": data + rng.fork("blur").normal(data)})
    given = real + noise(rng.fork("seen"))

    def error(net: bl.Network, steps: int) -> float:
        made = sample(net, x0, steps, {"given": given})
        return w2(torch.cat([given, made], 1), torch.cat([given, real], 1))

    nets = [
        [learn(network(rng, conditions=GIVEN), objective, data, rng.fork("net"), steps=n) for n in (300, 900)]
        for objective in (bl.objectives.FlowMatching(), bl.objectives.SelfRectified(power=1.0))
    ]
    (early, plain), (quick, dream) = nets
    first = network(rng, conditions=GIVEN)
    return [
        finding("16 steps after a third of the training: rebuilt states (figure) against plain", error(early, 16),
                error(quick, 16), error(first, 16)),
        *(finding(f"{n} steps after the whole training: rebuilt states (figure) against plain", error(plain, n),
                  error(dream, n), error(first, n)) for n in (2, 4, 16)),
    ]  # fmt: skip
