"""Wang et al. 2024: second-order steps bring a datum back from inversion better than Euler does."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.core.solver import EULER, Taylor
from benchmarks.claims.ring import FLOW, LAW, finding, rmse

METHOD = "RF-Solver: second-order Taylor steps for inversion"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    x1 = LAW.sample(512, rng).double()
    trip = lambda s: rmse(s(FLOW, s.invert(FLOW, x1)), x1)  # noqa: E731
    second, euler, dear = (trip(bl.Sampler(n, solver=s)) for n, s in ((16, Taylor()), (16, EULER), (32, EULER)))
    return [
        finding(
            "round trip on the ring, 16 steps: RF-Solver (figure, 32 evaluations) against Euler (16)", euler, second
        ),
        finding("the same at equal evaluations: RF-Solver 16 steps (figure) against Euler 32 steps", dear, second),
    ]
