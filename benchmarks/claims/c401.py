"""Two digits side by side, each with its own label, and a small network that was trained with the labels dropped
independently; 12 Euler steps. One label is guided with the scale 3 and the other is not, by nested and by separate
guidance. The share of halves with the wanted label is that of a logistic regression."""

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
HIGH = 3.0


def measure(rng: bl.Rng) -> list[Finding]:
    data = pairs(rng)
    net, untrained = trained(rng, data), network(rng)
    nested = Nested((Unconditional(), Without(("right",))), (1.0, HIGH))
    separate = Guides((Guide(Without(("left",)), Extrapolate(HIGH)),))
    plain, both = sampled(net, rng, bl.CFG(1.0)), sampled(net, rng, bl.CFG(HIGH))
    rows = []
    for name, guidance, strong in (("nested, right label", nested, 1), ("separate, left label", separate, 0)):
        x, wanted = sampled(net, rng, guidance)
        none = sampled(untrained, rng, guidance)[0]
        shares = [read(one, wanted) for one in (plain[0], x, none)]
        rows += [
            finding(f"{name}: scale 3 (figure) against no guidance", *(share[strong] for share in shares),
                    better="higher"),
            finding(f"{name}: the other label (figure) against no guidance, 2% worse", 0.98 * shares[0][1 - strong],
                    shares[1][1 - strong], shares[2][1 - strong], better="higher"),
            finding(f"{name}: distance to pairs of digits (figure) against scale 3 for both labels",
                    *(distance(one, data, rng) for one in (both[0], x, none))),
        ]  # fmt: skip
    return rows
