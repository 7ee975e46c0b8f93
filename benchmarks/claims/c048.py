"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.low_rank import AdapterBias
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "AdapterBias: a shift with a strength for every token"
CLAIM = "Far fewer numbers with little loss of quality."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(AdapterBias(), rng))
