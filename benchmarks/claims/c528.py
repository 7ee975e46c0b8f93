"""Digits of 8 x 8 pixels in four tokens, four blocks: the whole with its loss, the smallest part and two random ones
with their differences from the whole, in each of 100 steps. Held-out losses of four parts are compared with the same
training without differences, with networks that were trained alone for 100 steps each, and with the parts after 100
steps of training each. Pictures of a thousand classes, and the choice from coarse to fine, are not measured."""

from __future__ import annotations

import beeline as bl
from beeline.networks.transformer.plans.elastic import extracted
from beeline.objectives.subsets.draws import Sandwich
from beeline.objectives.subsets.elastic import Elastic
from benchmarks.claims.elastic import alone, elastic, first, loss, losses, mean, sized
from benchmarks.claims.small_transformers import same, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BigNAS: sandwiches, and distillation in place"
CLAIM = "Parts of one network are usable without training after it."
STEPS, DRAWS = 100, Sandwich(2, 0.25, 0.25)


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    parts = [sized(0.25, 0.25), sized(0.5, 0.5), sized(0.5, 1.0), sized(1.0, 0.75)]
    net = elastic(seed, Elastic(draws=DRAWS, own=0.0, distilled=1.0), STEPS)
    data = elastic(seed, Elastic(draws=DRAWS), STEPS)
    plain = alone(seed, steps=STEPS)
    own, single = mean(losses(net, parts)), mean([loss(alone(seed, part, STEPS)) for part in parts])
    by_data, before = mean(losses(data, parts)), mean(losses(plain, parts))
    tuned = [loss(trained(extracted(net, p.width, p.visits), same(rng), steps=100)) for p in parts]
    return [
        finding("mean of four parts (figure) against networks trained alone, at most 5% worse", 1.05 * single, own,
                before, "parts of a network trained whole"),
        finding("mean of four parts: losses of data (figure) against networks trained alone, at most 5% worse",
                1.05 * single, by_data, before, "parts of a network trained whole"),
        finding("mean of four parts (figure) against the same after 100 steps of training each, at most 10% worse",
                1.1 * mean(tuned), own, before, "parts of a network trained whole"),
        finding("mean of four parts: distilled (figure) against losses of data", by_data, own,
                mean(losses(first(seed), parts))),
    ]  # fmt: skip
