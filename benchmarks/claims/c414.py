"""Liu and Qin 2025: Gauss-Seidel-Jacobi sweeps invert an autoregressive flow in fewer rounds than its positions."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.core.picard import GaussSeidelJacobi, Picard, jacobi
from beeline.core.solver import EULER
from benchmarks.claims.ring import LAW, finding, problem

METHOD = "GS-Jacobi iteration"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    # x_i = z_i exp(s_i(x_<i)) + m_i(x_<i) with a random strictly causal map, 64 positions
    length = 64
    scale, shift = (torch.tril(rng.fork(k).normal(torch.empty(length, length).double()), -1) for k in ("s", "m"))
    z = rng.fork("z").normal(torch.empty(length, 32, 1, dtype=torch.float64))
    mix = lambda w, x: torch.einsum("ij,jbd->ibd", w / length**0.5, torch.tanh(x))  # noqa: E731
    sweep = lambda x: z * torch.exp(0.5 * mix(scale, x)) + mix(shift, x)  # noqa: E731
    exact, _ = jacobi(sweep, z, 1e-300)
    quick, rounds = jacobi(sweep, z, 1e-8)
    assert float((quick - exact).abs().max()) < 1e-6
    test, told = problem(rng.fork("noise"), 64), []
    times = torch.linspace(0, 1, 65, dtype=torch.float64)
    sequential = bl.integrate(LAW.field(), test.x0, times, EULER)
    for solver in (GaussSeidelJacobi(64, 1e-6), Picard(64, 1e-6)):
        got = bl.integrate(LAW.field(), test.x0, times, solver, done=told.append)
        assert float((got - sequential).abs().max()) < 1e-3
    return [
        finding(
            "rounds to invert a causal map of 64 positions to 1e-8: Jacobi (figure) against one at a time", 64, rounds
        ),
        finding(
            "batched rounds for 64 Euler steps on the ring: Jacobi over all of them (figure) against 64",
            64,
            told[0].rounds,
        ),
        finding("the same: Picard over all 64 steps (figure) against 64", 64, told[1].rounds),
    ]
