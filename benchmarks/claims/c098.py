"""A small transformer of digits moved to turned pictures, and to pictures with stripes: values that are passed on by
weights of a power p beside attention, against attention's own weights (p = 2), and against a bottleneck."""

from __future__ import annotations

import beeline as bl
from beeline.networks.branches.bottlenecks import Bottleneck
from beeline.networks.branches.laplace import PLaplace
from benchmarks.claims.beside import before, moved, striped, turned
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "p-adapter: message passing of another power after attention"
CLAIM = "Better than other small changes, as messages between unlike tokens get weights of their own."


def measure(rng: bl.Rng) -> list[Finding]:
    found = []
    for style in (turned, striped):
        own, same, plain = (
            moved(rng.seed, part, style)[0] for part in (PLaplace(1.5, rank=8), PLaplace(2.0, rank=8), Bottleneck(8))
        )
        for name, rival in (("p = 2", same), ("a bottleneck", plain)):
            found.append(finding(f"loss, {style.__name__}: p = 1.5 against {name}", rival, own,
                                 before(rng.seed, style), "not adapted"))  # fmt: skip
    return found
