"""Lipman et al. 2023: the straight path needs fewer evaluations than the variance-preserving one."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.laws import GaussianMixture

METHOD = "Flow matching: straight path against the VP path"
REFERENCE_STEPS = 400


def error(path: Any, steps: int, x0: torch.Tensor) -> float:
    """RMSE of Euler's end points to the exact flow map of the same path."""
    field = GaussianMixture.ring().field(path)
    exact = bl.integrate(field, x0, bl.schedules.Uniform()(REFERENCE_STEPS), bl.solvers.RK4)
    made = bl.integrate(field, x0, bl.schedules.Uniform()(steps), bl.solvers.EULER)
    return float((made - exact).square().sum(1).mean().sqrt())


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    x0 = rng.normal(torch.empty(1000, 2, dtype=torch.float64))
    return [
        {
            "compares": f"RMSE to the exact map on the ring, Euler, {steps} evaluations: straight (figure) against VP",
            "baseline": error(bl.paths.VariancePreserving(), steps, x0),
            "figure": error(bl.paths.Linear(), steps, x0),
            "better": "lower",
        }
        for steps in (4, 8, 16)
    ]
