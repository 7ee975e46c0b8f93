"""The ring from data alone: W2 distance and error to the exact ends of one and four steps, after equally many steps of
training, against MeanFlow."""

from __future__ import annotations

import beeline as bl
from beeline.objectives.maps.presets import MeanFlow, TerminalVelocity
from benchmarks.claims.maps import LONG, fresh, jumped
from benchmarks.claims.toys import RING, even, exact_end, finding, learn, noise, points, rmse, w2
from benchmarks.claims.verdict import Finding

METHOD = "Terminal velocity matching"
CLAIM = "A loss at the end of the jump gives better one- and few-step samples from scratch than one at its start."


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    wanted = exact_end(RING, x0)
    nets = [learn(fresh(rng), o, data, rng.fork("net"), steps=LONG) for o in (MeanFlow(), TerminalVelocity())]
    nets.append(fresh(rng))
    return [
        *(finding(f"{n} steps, W2: terminal velocities (figure) against MeanFlow",
                  *(w2(jumped(net, x0, n), real) for net in nets)) for n in (1, 4)),
        finding("one step, error to the exact ends: terminal velocities (figure) against MeanFlow",
                *(rmse(jumped(net, x0), wanted) for net in nets)),
    ]  # fmt: skip
