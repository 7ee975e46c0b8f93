"""Zhang et al. 2025: batch couplings of the data make the hierarchical flow good in few evaluations."""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.c070 import hierarchical, walked
from benchmarks.claims.toys import finding

METHOD = "Hierarchical rectified flow with batch couplings"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    plain = hierarchical(rng.fork("independent"), bl.couplings.Independent())
    paired = hierarchical(rng.fork("paired"), bl.couplings.MinibatchOT())
    rows = []
    for outer, inner in ((1, 1), (2, 5)):
        before, after = (walked(field, rng, outer, inner) for field in (plain, paired))
        rows.append(finding(f"W1 on two 1-D modes, {outer} x {inner} evaluations: data coupled by batch OT (figure) "
                            "against independent", before, after))  # fmt: skip
    return rows
