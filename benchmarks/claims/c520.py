"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.blocks import MiSS
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "Bone: shared affine tiles"
CLAIM = "Better than PiSSA and LoRA at equal rank."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(MiSS(8), rng))
