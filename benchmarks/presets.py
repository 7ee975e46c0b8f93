"""Fits the coefficients of the multistep solver in ``beeline/solvers/presets.py`` to random mixtures.

    python -m benchmarks.presets [--steps 4 6 8 ...] [--iterations 1500] [--lr 0.005] [--output FILE]

The mixtures are sampled from seeds that no benchmark uses: 2 to 128 dimensions, 3 to 24 modes, standard deviations from
0.08 to 1, with ratios up to 20 within a mixture.  The loss is the mean over mixtures of the log squared error of the
end points.
"""

from __future__ import annotations

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
from benchmarks import report

MIXTURES, SAMPLES = 48, 1536


def isotropic(means: Tensor, stds: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact velocity of a mixture of isotropic Gaussians, by matrix products only, which is fast."""
    squares, variances = means.square().sum(1), stds**2

    def field(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        spread = t * t * variances + (1 - t) ** 2
        apart = x.square().sum(1, keepdim=True) - 2 * t * (x @ means.T) + t * t * squares
        share = torch.softmax(-apart / (2 * spread) - x.shape[1] / 2 * spread.log(), 1)
        pull = share * (t * variances - (1 - t)) / spread
        return (share - t * pull) @ means + pull.sum(1, keepdim=True) * x

    return field


def random_mixture(rng: Rng) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """The velocity field and the dimension of a random mixture."""
    u = rng.fork("shape").uniform(5, torch.empty(0, dtype=torch.float64)).tolist()
    dim = [2, 2, 4, 16, 32, 64, 128][int(u[0] * 7)]
    count = 3 + int(u[1] * 22)
    low = 0.08 * (1 / 0.08) ** u[2]
    width = 0.7 + 1.8 * u[3]
    turn = rng.fork("spread").uniform(count, torch.empty(0, dtype=torch.float64))
    high = min(1.0, low * 20 ** max(0.0, 2 * u[4] - 1))  # half of the mixtures have equal standard deviations
    means = width * rng.fork("means").normal(torch.empty(count, dim, dtype=torch.float64))
    return isotropic(means, low * (high / low) ** turn), dim


def learn(
    steps: int, iterations: int, lr: float = 0.005, mixtures: int = MIXTURES, warm: bool = False
) -> tuple[Form, float]:
    """The form, and its root mean square error over that of Adams-Bashforth on held-out mixtures (geometric mean)."""
    rng, problems = Rng(20_000), []
    for k in range(mixtures):
        field, dim = random_mixture(rng.fork("law", k))
        x0 = rng.fork("noise", k).normal(torch.empty(SAMPLES, dim, dtype=torch.float64))
        with torch.no_grad():
            x1 = integrate(field, x0, torch.linspace(0, 1, 49, dtype=torch.float64), RK4)
        problems.append((field, x0, x1))
    form = Form(Shifted(1.2)(steps), min(3, steps), keep=True)
    if warm and steps in PRESETS:
        form.set(Fitted(*PRESETS[steps]))
    optimizer = torch.optim.Adam(form.parts(), lr=lr)
    learned = problems[: mixtures * 3 // 4]
    for i in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * i / iterations)) / 2
        optimizer.zero_grad()
        chosen = rng.fork("law of step", i).permutation(len(learned))[:4].tolist()
        for k in chosen:
            field, x0, x1 = learned[k]
            rows = rng.fork("rows", i, k).permutation(SAMPLES)[:384]
            ((form.solve(field, x0[rows]) - x1[rows]).square().mean().log() / 4).backward()
        torch.nn.utils.clip_grad_norm_(form.parts(), 1.0)
        optimizer.step()
    return form, gain(form, problems[mixtures * 3 // 4 :], steps)


def gain(form: Form, problems: list, steps: int) -> float:
    """Geometric mean of the error of ``form`` over that of Adams-Bashforth 2."""
    from beeline.solvers.multistep import AdamsBashforth

    logs = []
    with torch.no_grad():
        for field, x0, x1 in problems:
            plain = integrate(field, x0, torch.linspace(0, 1, steps + 1, dtype=torch.float64), AdamsBashforth(2))
            errors = [(y - x1).square().mean().log() / 2 for y in (form.solve(field, x0), plain)]
            logs.append(float(errors[0] - errors[1]))
    return math.exp(sum(logs) / len(logs))


def main() -> None:
    torch.set_num_threads(1)
    parser = report.parser("presets", __doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 12, 16], help="numbers of steps")
    parser.add_argument("--iterations", type=int, default=1500, help="optimizer steps of each fit")
    parser.add_argument("--lr", type=float, default=0.005, help="peak learning rate")
    parser.add_argument("--warm", action="store_true", help="start from the coefficients in presets.py")
    options = parser.parse_args()
    output = options.output or Path("presets.json")
    settings = {"iterations": options.iterations, "lr": options.lr, "warm": options.warm}
    found = report.read(output).get("figures", {})
    for steps in options.steps:
        form, against = learn(steps, options.iterations, options.lr, warm=options.warm)
        solver = form.solver()
        found[str(steps)] = {"times": solver.times, "rows": solver.rows, "keep": solver.keep, "gain": against}
        report.write("presets", found, [20_000], output, **settings)
        print(steps, round(against, 3), [round(t, 3) for t in solver.times], flush=True)


if __name__ == "__main__":
    main()
