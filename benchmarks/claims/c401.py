"""Two digits side by side, each with its own label, and a small transformer that was trained with the labels dropped
independently; 12 Euler steps. One scale for both labels is 1.5. Nested guidance gives the second label, inside the
first, the scale 4; separate guidance gives each label a scale. The share of halves with the wanted label is that of a
logistic regression."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.guidance.composition.linear import Nested
from beeline.sampling.guidance.guide import Extrapolate, Guide, Guides, Unconditional
from beeline.sampling.guidance.references.conditions import Without
from benchmarks.claims.halves import distance, network, pairs, read, sampled, trained
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "MegaTTS 3: a weight for every condition"
CLAIM = "Separate guidance weights strengthen one condition without a loss in the other."
LOW, HIGH = 1.5, 4.0


def measure(rng: bl.Rng) -> list[Finding]:
    data = pairs(rng)
    net, untrained = trained(rng, data), network(rng)
    right = Without(("right",))
    kinds = {
        "one scale": Guide(Unconditional(), Extrapolate(LOW)),
        "nested": Nested((Unconditional(), right), (LOW, HIGH)),
        "separate": Guides((Guide(Without(("left",)), Extrapolate(LOW)), Guide(right, Extrapolate(HIGH)))),
        "both high": Guide(Unconditional(), Extrapolate(HIGH)),
    }
    made = {name: sampled(net, rng, guidance) for name, guidance in kinds.items()}
    left, strong = zip(*(read(*both) for both in made.values()), strict=True)
    none = read(*sampled(untrained, rng, kinds["nested"]))
    away = {name: distance(x, data, rng) for name, (x, _) in made.items()}
    far = distance(sampled(untrained, rng, kinds["nested"])[0], data, rng)
    rows = []
    for k, name in ((1, "nested"), (2, "separate")):
        rows += [
            finding(f"right label: {name}, scale 4 (figure) against one scale of 1.5", strong[0], strong[k], none[1],
                    better="higher"),
            finding(f"left label: {name}, scale 1.5 (figure) against one scale of 1.5, 2% worse", 0.98 * left[0],
                    left[k], none[0], better="higher"),
            finding(f"distance to pairs of digits: {name} (figure) against one scale of 4 for both",
                    away["both high"], away[name], far),
        ]  # fmt: skip
    return rows
