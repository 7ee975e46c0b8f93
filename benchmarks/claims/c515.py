"""Error of outputs of a layer with loud channels, with half and a quarter of its numbers as factors of low rank:
nearest for the outputs against nearest for the weight. Velocities of a small flow of the ring."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.factors import Factors
from beeline.networks.compressing.quantize import LowRank
from benchmarks.claims.storing import loud, output_error, ring, velocity_change
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LORD: factors of low rank by the covariance of outputs"
CLAIM = "The rank falls by up to 39.58 percent at under one percent of perplexity."


def measure(rng: bl.Rng) -> list[Finding]:
    layer, net = loud(rng), ring(rng.seed)
    found = [
        finding(f"{share:.0%} of the numbers of a layer: for outputs (figure) against for weights",
                output_error(Factors(share, False), layer), output_error(Factors(share), layer),
                output_error(Factors(share / 4, False), layer), "a quarter of the rank")
        for share in (0.5, 0.25)
    ]  # fmt: skip
    weights, outputs = (velocity_change(LowRank(0.5, kind), net, rng) for kind in (False, True))
    few = velocity_change(LowRank(0.1, False), net, rng)
    return [*found, finding("velocities of the ring, half of the numbers: for outputs (figure) against for weights",
                            weights, outputs, few, "a tenth of the numbers")]  # fmt: skip
