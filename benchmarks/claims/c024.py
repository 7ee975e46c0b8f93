"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.low_rank import Hydra
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "Hydra: parallel and sequential branches"
CLAIM = "A parallel and a sequential branch are better than one branch."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(Hydra(2, 2), rng))
