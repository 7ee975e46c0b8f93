"""The ring, a trained teacher, one-step students after 300 steps of training; W2 distance to the distribution and the
share of modes that are kept. The Kullback-Leibler and the Jensen-Shannon divergence against the reverse
Kullback-Leibler divergence, all with the same critic."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.games.matching import FDistill
from beeline.objectives.games.divergences import ForwardKL, JensenShannon, ReverseKL
from benchmarks.claims.games import ZERO, made_by, modes, shared, teacher, test_set
from benchmarks.claims.toys import finding, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "f-distill: f-divergence distribution matching"
CLAIM = "Divergences other than the reverse KL divergence give better one-step students and cover the modes."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow, (x0, real) = teacher(rng), test_set(rng)
    kinds = (ReverseKL(), ForwardKL(), JensenShannon())
    reverse, forward, both = (made_by(FDistill(ratio=1, steps=1, divergence=f), rng) for f in kinds)
    raw, once = w2(0 * x0, real), w2(sample(flow.field, x0, 1), real)
    return [
        finding("W2: Jensen-Shannon (figure) against the teacher in one step", once, w2(both, real), raw, ZERO),
        finding("W2: Jensen-Shannon (figure) against reverse KL", w2(reverse, real), w2(both, real), raw, ZERO),
        finding("W2: KL (figure) against reverse KL", w2(reverse, real), w2(forward, real), raw, ZERO),
        finding("share of the modes that are kept: KL (figure) against reverse KL", modes(reverse), modes(forward),
                modes(0 * x0), ZERO, better="higher"),
    ]  # fmt: skip
