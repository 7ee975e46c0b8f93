"""The exact test bed of the solver claims: the ring of eight modes, and the error of end points on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline import Flow, Rng, Sampler, integrate
from beeline.core.solver import RK4
from beeline.data.laws import GaussianMixture
from beeline.learn.fit_solver import Problem
from beeline.use.guidance import Plain

LAW = GaussianMixture.ring()
FLOW = Flow(LAW.field())


def problem(rng: Rng, n: int = 512) -> Problem:
    """Noises and their exact end points."""
    x0 = rng.normal(torch.empty(n, 2, dtype=torch.float64))
    exact = integrate(LAW.field(), x0, torch.linspace(0, 1, 101, dtype=torch.float64), RK4)
    return Problem(FLOW, Plain(), x0, exact)


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square distance of two sets of points."""
    return float((a - b).square().sum(1).mean().sqrt())


def error(test: Problem, sampler: Sampler) -> float:
    return rmse(sampler(FLOW, test.x0), test.x1)


def finding(compares: str, baseline: float, figure: float, better: str = "lower") -> dict[str, Any]:
    return {"compares": compares, "baseline": baseline, "figure": figure, "better": better}
