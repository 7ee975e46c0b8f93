"""Sequential cost in rounds of parallel evaluations, at an unchanged result: inverting a random causal affine map of 64
positions to 1e-8, and 64 Euler steps on the ring to 1e-6 of the sequential end point."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.solvers.parallel_in_time import GaussSeidelJacobi, Picard, jacobi_iteration
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import LAW, problem
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "GS-Jacobi iteration"
CLAIM = "Sampling is 2.5 to 5.3 times faster at an unchanged result."
LENGTH, GAIN = 64, 2.5
NO_ITERATION = "one round only (64 where the result is wrong)"


def measure(rng: bl.Rng) -> list[Finding]:
    like = torch.empty(LENGTH, LENGTH, dtype=torch.float64)
    scale, shift = (torch.tril(rng.fork(k).normal(like), -1) for k in ("s", "m"))
    z = rng.fork("z").normal(torch.empty(LENGTH, 32, 1, dtype=torch.float64))
    mix = lambda w, x: torch.einsum("ij,jbd->ibd", w / LENGTH**0.5, torch.tanh(x))  # noqa: E731
    sweep = lambda x: z * torch.exp(0.5 * mix(scale, x)) + mix(shift, x)  # noqa: E731
    exact, _ = jacobi_iteration(sweep, z, 1e-300)

    def counted(made: torch.Tensor, wanted: torch.Tensor, rounds: float, tolerance: float) -> float:
        """The rounds, or all of them where the result is another one."""
        return rounds if float((made - wanted).abs().max()) < tolerance else float(LENGTH)

    rows = [finding("causal map: Jacobi (figure) against one position at a time, divided by 2.5", LENGTH / GAIN,
                    counted(*_two(jacobi_iteration(sweep, z, 1e-8), exact), 1e-6), counted(sweep(z), exact, 1, 1e-6),
                    NO_ITERATION)]  # fmt: skip
    test = problem(rng.fork("noise"), 64)
    times = torch.linspace(0, 1, LENGTH + 1, dtype=torch.float64)
    sequential = bl.integrate(LAW.field(), test.x0, times, EULER)
    single = bl.integrate(LAW.field(), test.x0, times[[0, -1]], EULER)
    for name, solver in (
        ("Picard over all steps", Picard(LENGTH, 1e-6)),
        ("Gauss-Seidel-Jacobi", GaussSeidelJacobi(LENGTH, 1e-6)),
    ):
        told: list[Any] = []
        got = bl.integrate(LAW.field(), test.x0, times, solver, done=told.append)
        rows.append(finding(f"Euler steps: {name} (figure) against one step at a time, divided by 2.5", LENGTH / GAIN,
                            counted(got, sequential, told[0].rounds, 1e-3),
                            counted(single, sequential, 1, 1e-3), NO_ITERATION))  # fmt: skip
    return rows


def _two(made: tuple[torch.Tensor, int], wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    return made[0], wanted, made[1]
