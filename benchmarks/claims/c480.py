"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.blocks import PHM
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "PHM: sums of Kronecker products"
CLAIM = "1/n of the numbers at comparable quality."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(PHM(4), rng))
