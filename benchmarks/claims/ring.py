"""The exact problem of the solver claims: the ring of eight modes, and the error of end points."""

from __future__ import annotations

import torch
from torch import Tensor

from beeline import Flow, Rng, Sampler, integrate
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.fit_solver import Problem
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import EULER, RK4

LAW = GaussianMixture.ring()
FLOW = Flow(LAW.field())
ONE_STEP = "one Euler step"
STILL = "no motion at all"


def problem(rng: Rng, n: int = 512) -> Problem:
    """Samples of the source and their exact end points."""
    x0 = rng.normal(torch.empty(n, 2, dtype=torch.float64))
    exact = integrate(LAW.field(), x0, torch.linspace(0, 1, 101, dtype=torch.float64), RK4)
    return Problem(FLOW, Plain(), x0, exact)


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square distance of two sets of points."""
    return float((a - b).square().sum(1).mean().sqrt())


def error(test: Problem, sampler: Sampler) -> float:
    return rmse(sampler(FLOW, test.x0), test.x1)


def one_step(test: Problem) -> float:
    return error(test, Sampler(1, solver=EULER))


def inverted(rng: Rng, n: int = 512) -> tuple[Tensor, Tensor]:
    """Data and their exact source points."""
    x1 = LAW.sample(n, rng).double()
    return x1, integrate(LAW.field(), x1, torch.linspace(1, 0, 101, dtype=torch.float64), RK4)


def round_trip(sampler: Sampler, x1: Tensor, exact: Tensor) -> float:
    """Errors of the inverted noise and of the reconstructed datum, combined.

    The datum alone is not enough: the identity reconstructs it exactly.
    """
    found = sampler.invert(FLOW, x1)
    return (rmse(found, exact) ** 2 + rmse(sampler(FLOW, found), x1) ** 2) ** 0.5
