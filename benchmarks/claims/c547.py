"""Xu et al. 2023: heavier-tailed kernels make the sampler more robust to errors; D to infinity is diffusion."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import RING, draw, finding, learn, network, noise, points, w2

METHOD = "PFGM++: Student kernels"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, real = points(rng), RING.sample(1000, rng.fork("real")).float()
    rows, made = [], {}
    for degrees in (float("inf"), 8.0):
        source: Any = bl.sources.Gaussian() if degrees == float("inf") else bl.sources.StudentT(degrees)
        objective = bl.objectives.FlowMatching(coupling=bl.couplings.Independent(source))
        net = learn(network(rng), objective, data, rng.fork("net"), steps=1500)
        x0 = source.sample(noise(rng), rng.fork("x0"))
        shaken = lambda x, t, net=net: net(x, t) + 0.5 * rng.fork("shake", float(t[0])).normal(x)  # noqa: E731
        made[degrees] = [w2(draw(f, x0, 20), real) for f in (net, shaken)]
    plain, heavy = made[float("inf")], made[8.0]
    assert torch.isfinite(torch.tensor(heavy)).all()
    rows.append(
        finding(
            "W2 to the ring, 20 Euler steps: Student kernel with D = 8 (figure) against Gaussian", plain[0], heavy[0]
        )
    )
    rows.append(finding("the same with noise added to every velocity", plain[1], heavy[1]))
    return rows
