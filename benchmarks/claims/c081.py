"""A small transformer of digits moved to pictures with stripes, and to pictures without fine features: pairs of small
layers of coarse and of fine features, mixed for every token, against one of equal count."""

from __future__ import annotations

import beeline as bl
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.frequency import Frequency
from benchmarks.claims.beside import against, blurred, striped
from benchmarks.claims.verdict import Finding

METHOD = "Earth-Adapter: adapters of low and high frequencies behind blocks"
CLAIM = "9.0 points more than another adapter in a domain with artefacts."


def measure(rng: bl.Rng) -> list[Finding]:
    coarse, fine, plain = Frequency(6, cutoff=0.2, last=None), Frequency(6, last=None), Bottleneck(20)
    return [
        against("the mean of the picture apart, against a bottleneck", rng.seed, coarse, plain, striped),
        against("two coarse frequencies apart, against a bottleneck", rng.seed, fine, plain, striped),
        against("two coarse frequencies apart, against a bottleneck", rng.seed, fine, plain, blurred),
    ]
