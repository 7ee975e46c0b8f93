"""W2 distance of a flow that is adapted to a new style, and errors on weights of known form, against LoRA of at least
as many numbers."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.members.sparse import Fourier
from benchmarks.claims.deltas import against_lora
from benchmarks.claims.verdict import Finding

METHOD = "FourierFT: sparse spectral coefficients"
CLAIM = "Better than LoRA with a fraction of its numbers."


def measure(rng: bl.Rng) -> list[Finding]:
    return list(against_lora(Fourier(160), rng, Fourier(80)))
