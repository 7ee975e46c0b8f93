"""The hierarchical flow of 070 with couplings of data within the batch; W1 distance to two modes on the line."""

from __future__ import annotations

import beeline as bl
from benchmarks.claims.c070 import hierarchical, inner, sampled_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Hierarchical rectified flow with batch couplings"
CLAIM = "Couplings control how multimodal every level is, and improve few-step results."


def measure(rng: bl.Rng) -> list[Finding]:
    fields = [hierarchical(rng.fork("net"), c) for c in (bl.couplings.Independent(), bl.couplings.MinibatchOT())]
    return [
        finding(f"{outer} x {inside} evaluations: data coupled by batch OT (figure) against independent",
                *(sampled_error(field, rng, outer, inside) for field in (*fields, inner(rng.fork("net")))))
        for outer, inside in ((1, 1), (2, 5))
    ]  # fmt: skip
