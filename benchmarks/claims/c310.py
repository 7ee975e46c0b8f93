"""Yao et al. 2024: a direction term and times chosen by their SNR make training faster.

The SNR density with std 2 rarely draws the end times, where its error is then five times larger; the figure weighs
times evenly.  The direction term is within the spread between seeds (about 0.01).
"""

from __future__ import annotations

from typing import Any

import beeline as bl
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error

METHOD = "FasterDiT: direction term, density of the SNR"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, errors = points(rng), {}
    for name, times, distance in (
        ("plain", bl.times.Uniform(), bl.objectives.squared),
        ("direction", bl.times.Uniform(), bl.objectives.Direction(0.5)),
        ("SNR", bl.times.NormalSNR(bl.paths.Linear(), 0.0, 2.0), bl.objectives.squared),
    ):
        net = learn(network(rng), bl.objectives.FlowMatching(times=times, distance=distance), data, rng.fork("net"))
        errors[name] = velocity_error(net, RING, rng)
    text = "rmse of the velocity on the ring after 1000 steps: {} (figure) against plain"
    return [finding(text.format(name), errors["plain"], errors[name]) for name in ("direction", "SNR")]
