"""Fits the coefficients of the multistep solver in ``beeline/solvers/fitted/presets.py`` to random mixtures.

    python -m benchmarks.presets [--steps 4 6 8 ...] [--iterations 600] [--lr 0.005] [--output FILE] [--write FILE]

The mixtures are sampled from seeds that no benchmark uses: 2 to 256 dimensions, 3 to 24 modes, standard deviations from
0.08 to 1, with ratios up to 20 within a mixture.  The loss is the mean over mixtures of the error of the end points,
relative to the best of UniPC, Adams-Bashforth and the midpoint rule.  The fit starts from the best of Adams-Bashforth,
DPM-Solver++ and UniPC on a few schedules, and stays exact for straight trajectories.  ``--write`` writes the
coefficients of the result file as Python source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.protocols.flows import Solver
from beeline.core.rng import Rng
from beeline.distillation.fit_solver import Form, starting_solvers
from beeline.paths.affine import Linear
from beeline.solvers.fitted.linear import Fitted, linear_form
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, UniPC
from beeline.solvers.runge_kutta import MIDPOINT, RK4
from benchmarks import report

CURVED_MARK = "CURVED: dict"
MIXTURES, SAMPLES = 48, 1024
Problem = tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]


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
    dim = [2, 2, 2, 3, 4, 16, 64, 256][int(u[0] * 8)]
    count = 3 + int(u[1] * 22)
    low = 0.08 * (1 / 0.08) ** u[2]
    width = 0.7 + 1.8 * u[3]
    turn = rng.fork("spread").uniform(count, torch.empty(0, dtype=torch.float64))
    high = min(1.0, low * 20 ** max(0.0, 2 * u[4] - 1))  # half of the mixtures have equal standard deviations
    means = width * rng.fork("means").normal(torch.empty(count, dim, dtype=torch.float64))
    return isotropic(means.float(), (low * (high / low) ** turn).float()), dim


def random_problems(mixtures: int = MIXTURES) -> list[Problem]:
    """(field, source points, end points) of random mixtures."""
    problems = []
    for k in range(mixtures):
        field, dim = random_mixture(Rng(20_000).fork("law", k))
        x0 = Rng(20_000).fork("noise", k).normal(torch.empty(SAMPLES, dim))
        with torch.no_grad():
            problems.append((field, x0, integrate(field, x0, torch.linspace(0, 1, 41), RK4)))
    return problems


def learn(problems: list[Problem], steps: int, iterations: int, lr: float) -> tuple[Fitted, dict[str, float]]:
    """The solver, and its root mean square error over those of other solvers on held-out mixtures."""
    rng, count = Rng(20_000), len(problems) * 3 // 4
    learned, held = problems[:count], problems[count:]
    forms = [linear_form(solver, schedule(steps)) for schedule, solver in starting_solvers(Linear(), steps)]
    starts = [form for form in forms if form is not None and not form.keep]
    usual = usual_errors(learned, steps)
    start = min(starts, key=lambda s: sum(math.exp(e) / b for e, b in zip(log_errors(s, learned), usual, strict=True)))
    form = Form(torch.tensor(start.times, dtype=torch.float64), min(3, steps), keep=False, consistent=True)
    form.set(start)
    print(steps, "start", compare(form.solver(), held, steps), flush=True)
    optimizer = torch.optim.Adam(form.parts(), lr=lr, betas=(0.9, 0.99))
    for i in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * i / iterations)) / 2 * min(1.0, (i + 1) / 20)
        optimizer.zero_grad()
        for k in rng.fork("law of step", i).permutation(count)[:3].tolist():
            field, x0, x1 = learned[k]
            rows = rng.fork("rows", i, k).permutation(SAMPLES)[:512]
            ((form.solve(field, x0[rows]) - x1[rows]).square().mean().sqrt() / usual[k] / 3).backward()
        torch.nn.utils.clip_grad_norm_(form.parts(), 1.0)
        optimizer.step()
    return form.solver(), compare(form.solver(), held, steps)


def log_errors(solver: Solver, problems: list[Problem], times: Tensor | None = None) -> list[float]:
    """The logarithm of the root mean square error of every problem."""
    if times is None:
        assert isinstance(solver, Fitted)
        times = torch.tensor(solver.times)
    with torch.no_grad():
        return [float((integrate(f, x0, times, solver) - x1).square().mean().log() / 2) for f, x0, x1 in problems]


def usual_errors(problems: list[Problem], steps: int) -> list[float]:
    """The smallest error of UniPC, Adams-Bashforth and the midpoint rule with equal steps, for every problem."""
    known = [(UniPC(2), steps), (AdamsBashforth(2), steps), (MIDPOINT, steps // 2)]
    found = [log_errors(solver, problems, torch.linspace(0, 1, n + 1)) for solver, n in known]
    return [math.exp(min(each)) for each in zip(*found, strict=True)]


def compare(solver: Fitted, problems: list[Problem], steps: int) -> dict[str, float]:
    """The error over those of UniPC and Adams-Bashforth with equal steps: geometric mean and the largest."""
    own, out = log_errors(solver, problems), {}
    for name, other, n in (
        ("UniPC", UniPC(2), steps),
        ("Adams-Bashforth", AdamsBashforth(2), steps),
        ("midpoint", MIDPOINT, steps // 2),
    ):
        theirs = log_errors(other, problems, torch.linspace(0, 1, n + 1))
        logs = [a - b for a, b in zip(own, theirs, strict=True)]
        out[name] = round(math.exp(sum(logs) / len(logs)), 3)
        out[f"{name}, largest"] = round(math.exp(max(logs)), 3)
    return out


def rounded(times: list[float], rows: list[list[float]], digits: int = 6) -> tuple[list[float], list[list[float]]]:
    """The coefficients in decimals, with the last weight of every state such that they sum to its time."""
    nodes, out = [round(t, digits) for t in times], []
    for t, row in zip(nodes[1:], rows, strict=True):
        short = [round(w, digits) for w in row[:-1]]
        out.append([*short, round(t - sum(short), digits)])
    return nodes, out


def source(found: dict[str, Any], before: str) -> str:
    """The text of presets.py, with the part of CURVED as ``before``."""
    known = sorted(found.items(), key=lambda item: int(item[0]))
    against = ", ".join(f"{n}: {entry['against']['UniPC']}" for n, entry in known)
    lines = [
        '"""Times and weights of multistep solvers for few evaluations, fitted on random Gaussian mixtures.',
        "",
        "Written by ``python -m benchmarks.presets --write``.  Exact on straight trajectories.  Error relative to",
        f"UniPC with equal steps on held-out distributions, geometric mean: {against}.",
        '"""',
        "",
        "Preset = tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]",
        "",
        "PRESETS: dict[int, Preset] = {  # by evaluations: times, rows, keep of Fitted",
    ]
    for n, entry in known:
        times, rows = rounded(entry["times"], entry["rows"])
        lines += [f"    {n}: (", f"        {tuple(times)},", "        (", *(f"            {tuple(r)}," for r in rows)]
        lines += ["        ),", "        (),", "    ),"]
    text = "\n".join([*lines, "}", ""])
    return text if CURVED_MARK not in before else text + "\n" + before[before.index(CURVED_MARK) :]


def main() -> None:
    torch.set_num_threads(1)
    parser = report.parser("presets", __doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6, 8, 12, 16], help="numbers of steps")
    parser.add_argument("--iterations", type=int, default=600, help="optimizer steps of each fit")
    parser.add_argument("--lr", type=float, default=0.005, help="peak learning rate")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result file as source, without a fit")
    options = parser.parse_args()
    output = options.output or Path("presets.json")
    found = report.read(output).get("figures", {})
    if options.write:
        options.write.write_text(source(found, options.write.read_text()))
        return
    problems = random_problems()
    for steps in options.steps:
        solver, against = learn(problems, steps, options.iterations, options.lr)
        found[str(steps)] = {"times": solver.times, "rows": solver.rows, "against": against}
        report.write("presets", found, [20_000], output, iterations=options.iterations, lr=options.lr)
        print(steps, against, [round(t, 3) for t in solver.times], flush=True)


if __name__ == "__main__":
    main()
