"""Coefficients of one multistep solver for all flows, learned on random mixtures for ``beeline/solvers/presets.py``.

    python -m benchmarks.presets [--steps 4 6 8 ...] [--iterations 2000]

The training laws are drawn here from seeds that no benchmark uses: 2 to 128 dimensions, 3 to 24 modes, spreads from
0.08 to 1 with conditions up to 20.  The loss is the mean over laws of the log squared error of the end points.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from beeline.core.rng import Rng
from beeline.distillation.fit_solver import Form
from beeline.solvers.fitted import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.presets import PRESETS
from beeline.solvers.runge_kutta import RK4
from beeline.times.schedules import Shifted

LAWS, NOISES = 48, 1536


def isotropic(means: Tensor, stds: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact velocity of a mixture of round Gaussians, by matrix products alone: fast enough to learn on."""
    squares, variances = means.square().sum(1), stds**2

    def field(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        spread = t * t * variances + (1 - t) ** 2
        apart = x.square().sum(1, keepdim=True) - 2 * t * (x @ means.T) + t * t * squares
        share = torch.softmax(-apart / (2 * spread) - x.shape[1] / 2 * spread.log(), 1)
        pull = share * (t * variances - (1 - t)) / spread
        return (share - t * pull) @ means + pull.sum(1, keepdim=True) * x

    return field


def random_law(rng: Rng) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    u = rng.fork("shape").uniform(5, torch.empty(0, dtype=torch.float64)).tolist()
    dim = [2, 2, 4, 16, 32, 64, 128][int(u[0] * 7)]
    count = 3 + int(u[1] * 22)
    low = 0.08 * (1 / 0.08) ** u[2]
    width = 0.7 + 1.8 * u[3]
    turn = rng.fork("spread").uniform(count, torch.empty(0, dtype=torch.float64))
    high = min(1.0, low * 20 ** max(0.0, 2 * u[4] - 1))  # half of the laws have one spread
    means = width * rng.fork("means").normal(torch.empty(count, dim, dtype=torch.float64))
    return isotropic(means, low * (high / low) ** turn), dim


def learn(steps: int, iterations: int, rate: float = 0.005, laws: int = LAWS, warm: bool = False) -> tuple[Form, float]:
    """The form, and its root mean square error over Adams-Bashforth's on laws held out (geometric mean)."""
    rng, problems = Rng(20_000), []
    for k in range(laws):
        field, dim = random_law(rng.fork("law", k))
        x0 = rng.fork("noise", k).normal(torch.empty(NOISES, dim, dtype=torch.float64))
        with torch.no_grad():
            x1 = integrate(field, x0, torch.linspace(0, 1, 49, dtype=torch.float64), RK4)
        problems.append((field, x0, x1))
    form = Form(Shifted(1.2)(steps), min(3, steps), keep=True)
    if warm and steps in PRESETS:
        form.set(Fitted(*PRESETS[steps]))
    optimizer = torch.optim.Adam(form.parts(), lr=rate)
    learned = problems[: laws * 3 // 4]
    for i in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * i / iterations)) / 2
        optimizer.zero_grad()
        chosen = rng.fork("law of step", i).permutation(len(learned))[:4].tolist()
        for k in chosen:
            field, x0, x1 = learned[k]
            rows = rng.fork("rows", i, k).permutation(NOISES)[:384]
            ((form.walk(field, x0[rows]) - x1[rows]).square().mean().log() / 4).backward()
        torch.nn.utils.clip_grad_norm_(form.parts(), 1.0)
        optimizer.step()
    return form, gain(form, problems[laws * 3 // 4 :], steps)


def gain(form: Form, problems: list, steps: int) -> float:
    from beeline.solvers.multistep import AdamsBashforth

    logs = []
    with torch.no_grad():
        for field, x0, x1 in problems:
            plain = integrate(field, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), AdamsBashforth(2))
            errors = [(y - x1).square().mean().log() / 2 for y in (form.walk(field, x0), plain)]
            logs.append(float(errors[0] - errors[1]))
    return math.exp(sum(logs) / len(logs))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 12, 16])
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("presets.json"))
    parser.add_argument("--rate", type=float, default=0.005)
    parser.add_argument("--warm", action="store_true", help="begin at what presets.py holds")
    given = parser.parse_args()
    for steps in given.steps:
        form, against = learn(steps, given.iterations, given.rate, warm=given.warm)
        solver = form.solver()
        found = json.loads(given.out.read_text()) if given.out.exists() else {}
        found[steps] = {"times": solver.times, "rows": solver.rows, "keep": solver.keep, "gain": against}
        given.out.write_text(json.dumps(found))
        print(steps, round(against, 3), [round(t, 3) for t in solver.times], flush=True)


if __name__ == "__main__":
    main()
