"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.blocks import Ether
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "ETHER+: relaxed reflections"
CLAIM = "Fewer numbers than LoRA, and robust to the learning rate."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(Ether(4), rng))
