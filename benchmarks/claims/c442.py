"""Small calorimeter showers: the energy fractions of four layers given the incident energy, modelled as logits by a
conditional flow. W2 distance between the pairs (energy, fractions) sampled and true, and the error against 40 Heun
steps."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.fit_solver import Bespoke, Problem
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.runge_kutta import MIDPOINT
from benchmarks.claims.toys import finding, learn, network, noise, rmse, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "CaloDREAM: bespoke non-stationary solver"
CLAIM = "Bespoke solvers cut the evaluations strongly at kept fidelity of the showers."
LAYERS = 4


def showers(rng: bl.Rng, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(log energy [n,1], logits of u_i = E_i / sum_{j>=i} E_j [n,3]); deeper where the energy is high."""
    energy = 2 * rng.fork("energy").uniform(n, torch.empty(0))[:, None] - 1
    depth = torch.tensor([1.0, 3.0, 3.0, 1.0]) + energy * torch.tensor([-0.6, -0.8, 1.2, 0.6])
    deposit = depth * torch.exp(0.4 * rng.fork("deposit").normal(torch.empty(n, LAYERS)))
    rest = deposit.flip(1).cumsum(1).flip(1)
    return energy, torch.logit((deposit / rest)[:, :-1], 1e-6)


def measure(rng: bl.Rng) -> list[Finding]:
    energy, shares = showers(rng.fork("data"), 10_000)
    told = {"energy": {"size": 1}}
    net = learn(network(rng, LAYERS - 1, conditions=told), bl.objectives.FlowMatching(),
                bl.Batch(shares, cond={"energy": energy}), rng.fork("net"))  # fmt: skip
    fine = lambda x0, cond: sample(net, x0, 40, cond, solver=bl.solvers.HEUN)  # noqa: E731
    start, seen = noise(rng.fork("fit"), 512, LAYERS - 1), {"energy": energy[:512]}
    fit = Problem(bl.Flow(net), Plain(), start, fine(start, seen), seen)
    schedule, solver = Bespoke(iterations=150)(fit, 4, rng)
    given, real = showers(rng.fork("test"), 512)
    x0, cond = noise(rng, size=LAYERS - 1), {"energy": given}
    first = network(rng, LAYERS - 1, conditions=told)
    exact = fine(x0, cond)
    bespoke = sample(net, x0, 4, cond, solver=solver, schedule=schedule)
    raw = sample(first, x0, 4, cond, solver=solver, schedule=schedule)
    both = lambda x: w2(torch.cat([given, x], 1), torch.cat([given, real], 1))  # noqa: E731
    rows = []
    for n in (4, 8):
        middle = sample(net, x0, n // 2, cond, solver=MIDPOINT)
        text = f"bespoke, 4 evaluations (figure) against midpoint, {n}"
        rows += [
            finding(f"distance to true showers: {text}", both(middle), both(bespoke), both(raw)),
            finding(f"error of the end points: {text}", rmse(middle, exact), rmse(bespoke, exact), rmse(raw, exact)),
        ]
    return rows
