"""The ring, trained on the straight and on the variance-preserving path with the flow-matching loss: W2 distance of few
Euler steps, and negative log-likelihood (nats) of 256 points by 20 steps of RK4."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import LINE, RING, even, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Flow matching: straight path against the VP path"
CLAIM = "The straight path trains and samples faster than diffusion paths, with better likelihood and quality."
END = 1 - 1e-3  # the slope of the variance-preserving path is infinite at 1


def measure(rng: bl.Rng) -> list[Finding]:
    data, x0, (real, _) = points(rng), noise(rng), even(RING, rng)
    ends = bl.schedules.Explicit  # the walk stops where both paths have a slope

    def new(path: Any) -> Any:
        return bl.Network(network(rng).backbone, path)

    def scores(net: Any, path: Any) -> dict[str, float]:
        made = {}
        for n in (4, 8, 16):
            grid = ends(tuple(END * i / n for i in range(n + 1)))
            made[f"W2, {n} evaluations"] = w2(_walk(net, path, x0, grid, n), real)
        with torch.no_grad():
            flow = bl.Flow(net, path)
            told = bl.log_prob(flow, real[:256], steps=20, solver=bl.solvers.RK4)
        made["negative log likelihood"] = -float(told.mean())
        return made

    vp, rows = bl.paths.VariancePreserving(), []
    raw = scores(new(LINE), LINE)
    for steps in (200, 800):
        base, made = (scores(learn(new(p), bl.objectives.FlowMatching(p), data, rng.fork("net"), steps), p)
                      for p in (vp, LINE))  # fmt: skip
        rows += [finding(f"{what}, after {steps} steps of training: straight (figure) against VP", base[what],
                         made[what], raw[what]) for what in made]  # fmt: skip
    return rows


def _walk(net: Any, path: Any, x0: torch.Tensor, grid: Any, steps: int) -> torch.Tensor:
    return sample(net, x0, steps, path=path, schedule=grid)
