"""Handwritten digits of 8 x 8 pixels under a causal flow of four blocks (TarFlow), one token a pixel, trained for 120
steps: seconds of the processor and rounds to sample 16 images, one token at a time with stored keys and values against
Gauss-Seidel-Jacobi iteration to 1e-4 by the plan of the ranking; results that differ by more than 1e-2 count as not
faster. Then the
sequential cost in rounds of parallel evaluations, at an unchanged result: inverting a random causal affine map of 64
positions to 1e-8, and 64 Euler steps on the ring to 1e-6 of the sequential end point."""

from __future__ import annotations

import time
from typing import Any

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.causal_flow import CausalFlow, Plan
from beeline.objectives.classify import CausalLikelihood
from beeline.solvers.parallel_in_time import GaussSeidelJacobi, Picard, jacobi_iteration
from beeline.solvers.runge_kutta import EULER
from benchmarks.claims.ring import LAW, problem
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "GS-Jacobi iteration"
CLAIM = "Sampling is 2.5 to 5.3 times faster at an unchanged result."
LENGTH, GAIN = 64, 2.5
NO_ITERATION = "one round only (no gain where the result is wrong)"


def measure(rng: bl.Rng) -> list[Finding]:
    return [*digits(rng.fork("digits")), *maps(rng)]


def digits(rng: bl.Rng) -> list[Finding]:
    """Sampling of a trained causal flow."""
    raw, _ = Digits().load()
    data = Digits().modality().fit(raw).encode(raw)
    data = bl.Batch(data.x1.float())
    with rng.fork("network").ambient():
        flow = CausalFlow((1, 8, 8), 1, width=32, blocks=4, depth=1, heads=2, tolerance=1e-4)
    learn(flow, CausalLikelihood(0.1), data, rng.fork("net"), steps=120, batch_size=64)
    z, found = rng.fork("z").normal(torch.empty(16, 1, 8, 8)), {}
    planned = flow.choose_plan(data.x1[:256])
    one_round = [Plan(1, 1)] * 4
    for name, plan in (
        ("single", [Plan(64, 1)] * 4),
        ("planned", planned),
        ("jacobi", [Plan()] * 4),
        ("one", one_round),
    ):
        flow.plan = plan
        found[name] = _fastest(flow, z)
    exact, slow, steps = found["single"]

    def cost(name: str) -> tuple[float, float]:
        """Seconds and rounds, or those of token by token where the result is another one."""
        made, seconds, rounds = found[name]
        return (seconds, rounds) if float((made - exact).abs().max()) < 1e-2 else (slow, steps)

    rows = []
    for name, way in (("planned", "GS-Jacobi by the ranking"), ("jacobi", "plain Jacobi")):
        for i, (unit, base) in enumerate((("seconds", slow), ("rounds", steps))):
            text = f"{unit}, causal flow: {way} (figure) against token by token, divided by 2.5"
            rows.append(finding(text, base / GAIN, cost(name)[i], cost("one")[i], NO_ITERATION))
    return rows


def _fastest(flow: CausalFlow, z: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """The samples, the seconds of the faster of two runs, and the rounds of all blocks."""
    best = float("inf")
    with torch.no_grad():
        for _ in range(2):
            begin = time.process_time()
            x, rounds = flow.invert(z)
            best = min(best, time.process_time() - begin)
    return x, best, float(sum(rounds))


def maps(rng: bl.Rng) -> list[Finding]:
    """Causal maps and steps of a solver."""
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
