"""Errors of solvers of Beeline and of other libraries against exact end points, by number of evaluations.

    python -m benchmarks.truth [--fit] [--nfe 4 8 16 32] [--samples 1024] [--plots DIR] [--output FILE]

The distributions are mixtures with a known velocity; the end points are computed by an adaptive solver at 1e-7 in
float64.  The figures are the root mean square error per coordinate and its median over samples, since a few samples
near a boundary between modes dominate the former.  ``--fit`` adds solvers fitted to each distribution on other samples.
The last three distributions of the five were chosen before any tuning.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError
from beeline.core.protocols.flows import Schedule, Solver
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.fit_solver import Bespoke, fit_solver
from beeline.distillation.fit_steps import Chosen
from beeline.distillation.fit_weights import StateDependent
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Cosine, Linear, Polynomial
from beeline.sampling.auto import auto_sampler
from beeline.sampling.sampler import Sampler
from beeline.solvers.adaptive import DORMAND_PRINCE, TSITOURAS, Adaptive
from beeline.solvers.exponential import Ratio
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import DEIS, AdamsBashforth, DPMSolver, Exponential, UniPC
from beeline.solvers.runge_kutta import EULER, HEUN, MIDPOINT, RALSTON, RK3, RK4, MidpointReuse, Taylor
from beeline.times.samplers import LogitNormal
from beeline.times.schedules import Cosine as CosineSteps
from beeline.times.schedules import Karras, Power, Quantiles, Shifted, Uniform
from benchmarks import report
from benchmarks.presets import isotropic
from benchmarks.rivals import rivals

SEED = 7
FIT_SAMPLES, FIT_STARTS = 32768, 2
PACKAGES = ("diffusers", "flow_matching", "torchdiffeq", "torchcfm")
DENSE = Quantiles(LogitNormal(-0.5, 2.0))


@dataclass(frozen=True)
class Exact:
    """A distribution with a known velocity field."""

    field: Callable[[Tensor, Tensor], Tensor]
    dim: int
    path: AffinePath = Linear()
    independent: bool = True

    @property
    def flow(self) -> Flow:
        return Flow(lambda x, t, cond=None: self.field(x, t), self.path, independent=self.independent)


def mixture(seed: int, modes: int, dim: int, width: float, stds: float | Tensor) -> Exact:
    means = width * Rng(seed).normal(torch.empty(modes, dim, dtype=torch.float64))
    stds = torch.as_tensor(stds, dtype=torch.float64).expand(modes)
    target = Exact(isotropic(means, stds), dim)
    exact = GaussianMixture(tuple(map(tuple, means.tolist())), tuple(stds.tolist())).field()
    x, t = Rng(0).normal(torch.empty(4, dim, dtype=torch.float64)), torch.linspace(0, 1, 4, dtype=torch.float64)
    assert torch.allclose(target.field(x, t), exact(x, t), atol=1e-8)
    return target


def ring() -> Exact:
    turn = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return Exact(isotropic(4 * torch.stack([turn.cos(), turn.sin()], 1), torch.full((8,), 0.3, dtype=torch.float64)), 2)


def reflowed(dim: int = 16) -> Exact:
    """A product of equal two-mode distributions, reflowed: trajectories are straight lines to the same quantile."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    grid = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    cdf = (normal.cdf((grid + 2) / 0.5) + normal.cdf((grid - 2) / 0.5)) / 2
    goal = torch.searchsorted(cdf, normal.cdf(grid).clamp(float(cdf[1]), float(cdf[-2]))).clamp(1, len(grid) - 1)
    share = (normal.cdf(grid) - cdf[goal - 1]) / (cdf[goal] - cdf[goal - 1]).clamp(min=1e-300)
    goals = grid[goal - 1] + share.clamp(0, 1) * (grid[1] - grid[0])

    def field(x: Tensor, t: Tensor) -> Tensor:
        now = (1 - t[:, None]) * grid + t[:, None] * goals  # increasing in the source, hence invertible
        at = torch.searchsorted(now, x.contiguous()).clamp(1, len(grid) - 1)
        low, high = now.gather(1, at - 1), now.gather(1, at)
        share = ((x - low) / (high - low)).clamp(0, 1)
        slope = goals - grid
        return slope[at - 1] + share * (slope[at] - slope[at - 1])

    return Exact(field, dim, independent=False)


def distributions() -> dict[str, Exact]:
    """The five main distributions, on the straight path."""
    uneven = 10 ** torch.linspace(math.log10(0.05), 0, 12, dtype=torch.float64)
    return {
        "8 modes, 2-D": mixture(0, 8, 2, 2.0, 0.3),
        "20 modes, 64-D": mixture(1, 20, 64, 1.0, 0.25),
        "ring of 8, 2-D": ring(),
        "12 uneven modes, 16-D": mixture(2, 12, 16, 1.5, uneven),
        "10 modes, 256-D": mixture(3, 10, 256, 1.0, 0.5),
    }


def others() -> dict[str, Exact]:
    """The first distribution on a slow-start and on a curved path, and a reflowed distribution."""
    means = 2 * Rng(0).normal(torch.empty(8, 2, dtype=torch.float64))
    target = GaussianMixture(tuple(map(tuple, means.tolist())), 0.3)
    return {
        "8 modes, slow start": Exact(target.field(Polynomial(2.0)), 2, Polynomial(2.0)),
        "8 modes, cosine path": Exact(target.field(Cosine()), 2, Cosine()),
        "two modes in 16-D, reflowed": reflowed(),
    }


def solvers(path: AffinePath) -> dict[str, tuple[int, Solver]]:
    """Name -> (evaluations per step, solver)."""
    return {
        "Euler": (1, EULER),
        "midpoint": (2, MIDPOINT),
        "Heun": (2, HEUN),
        "Ralston": (2, RALSTON),
        "RK3": (3, RK3),
        "RK4": (4, RK4),
        "Taylor 1/3": (2, Taylor(1 / 3)),
        "midpoint reuse": (1, MidpointReuse()),  # the first step has one evaluation more, so it takes one step less
        "Adams-Bashforth 2": (1, AdamsBashforth(2)),
        "Adams-Bashforth 3": (1, AdamsBashforth(3, ramp=True)),
        "Adams-Bashforth 4": (1, AdamsBashforth(4, ramp=True)),
        "DPM-Solver++ 2M": (1, DPMSolver(2, path)),
        "DPM-Solver++ 3M": (1, DPMSolver(3, path)),
        "DEIS 2": (1, DEIS(2, path)),
        "DEIS 3": (1, DEIS(3, path)),
        "DEIS 2, noise in sigma": (1, DEIS(2, path, Ratio(), noise=True)),
        "UniPC 2": (1, UniPC(2, path)),
        "UniPC 3": (1, UniPC(3, path)),
        "exponential Heun": (2, Exponential(HEUN, path)),
    }


def schedules() -> dict[str, Schedule]:
    return {
        "uniform": Uniform(),
        "shift 0.5": Shifted(0.5),
        "shift 1.6": Shifted(1.6),
        "shift 3": Shifted(3.0),
        "quadratic": Power(2.0),
        "power 0.6": Power(0.6),
        "cosine": CosineSteps(),
        "Karras": Karras(),
        "quantiles of LogitNormal(-0.5, 2)": DENSE,
    }


def truth(target: Exact, n: int) -> tuple[Tensor, Tensor]:
    x0 = Rng(SEED).normal(torch.empty(n, target.dim, dtype=torch.float64))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return x0, integrate(target.flow.field, x0, ends, Adaptive(1e-7, 1e-7))


def errors(got: Tensor, exact: Tensor) -> dict[str, float]:
    each = (got - exact).square().mean(1)
    return {"rmse": round(float(each.mean().sqrt()), 6), "median": round(float(each.median().sqrt()), 6)}


def solve(target: Exact, x0: Tensor, solver: Solver, per: int, budget: int, schedule: Schedule) -> Tensor | None:
    steps = budget // per - isinstance(solver, MidpointReuse)
    try:
        return None if steps < 1 else integrate(target.flow.field, x0, schedule(steps).double(), solver)
    except BeelineError:  # the formula of the solver has no first step on this path
        return None


def measure(
    name: str, target: Exact, n: int, budgets: list[int], fit: bool, iterations: int, fitted_at: tuple[int, ...] = (8,)
) -> dict[str, Any]:
    """{"rivals"|"ours"|"auto"|"fitted"|"schedules at 8": {name: {budget: errors}}}"""
    begin = time.perf_counter()
    x0, exact = truth(target, n)
    out: dict[str, Any] = {"rivals": {}, "ours": {}, "auto": {}, "fitted": {}, "schedules at 8": {}}
    for rival, (_, sample) in rivals().items():
        for budget in budgets:
            calls = [0]

            def counted(x: Tensor, t: Tensor, calls: list[int] = calls) -> Tensor:
                calls[0] += 1
                return target.field(x, t)

            try:
                got = sample(counted, x0, budget)
            except Exception as error:  # recorded in the result
                out["rivals"].setdefault(rival, {})[budget] = {"error": str(error)[:100]}
                continue
            assert calls[0] <= budget, (rival, budget, calls)
            out["rivals"].setdefault(rival, {})[budget] = errors(got, exact)
    for title, (per, solver) in solvers(target.path).items():
        for budget in budgets:
            got_or_none = solve(target, x0, solver, per, budget, Uniform())
            if got_or_none is not None:
                out["ours"].setdefault(title, {})[budget] = errors(got_or_none, exact)
        for kind, schedule in schedules().items() if target.dim <= 2 else ():
            got_or_none = solve(target, x0, solver, per, 8, schedule)
            if got_or_none is not None:
                out["schedules at 8"].setdefault(title, {})[kind] = errors(got_or_none, exact)["rmse"]
    for budget in budgets:
        sampler = auto_sampler(budget, path=target.path, independent=target.independent)
        assert (sampler.evaluations or 0) <= budget
        out["auto"][budget] = errors(sampler(target.flow, x0), exact)
        like = torch.empty(1024, target.dim, dtype=torch.float64)
        chosen = fit_solver(target.flow, budget, like=like, rng=Rng(11), method=Chosen())
        out["ours"].setdefault("chosen by measurement", {})[budget] = errors(chosen(target.flow, x0), exact)
        if fit and budget in fitted_at:
            out["fitted"][budget] = errors(fitted_sampler(target, budget, iterations, out)(target.flow, x0), exact)
    out["seconds"] = round(time.perf_counter() - begin, 1)
    print(f"{name}: {out['seconds']} s\n{table({name: out}, 8)}" if 8 in budgets else name, flush=True)
    return out


def fitted_sampler(target: Exact, budget: int, iterations: int, out: dict[str, Any]) -> Sampler:
    """A sampler fitted on noise of its own; ``out`` gets the cost of the fit, the solution of its end points included.

    The evaluations are those of single states; a backward pass costs about two more.
    """
    rows = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return target.field(x, t)

    begin, like = time.perf_counter(), torch.empty(FIT_SAMPLES, target.dim, dtype=torch.float64)
    base = Bespoke(iterations, batch=1024, lr=0.01 if target.dim < 32 else 0.005, order=3, starts=FIT_STARTS)
    method = StateDependent(base, iterations=2 * iterations)
    fitted = fit_solver(Exact(counted, target.dim, target.path).flow, budget, like=like, rng=Rng(11), method=method)
    graded, seconds = method.logged * 1024 * budget, round(time.perf_counter() - begin, 1)
    out["cost of the fit"] = {"evaluations of one state": rows, "of them with gradient": graded, "seconds": seconds}
    return fitted


def adaptive(target: Exact, n: int = 256) -> dict[str, list[tuple[float, int, float]]]:
    """(tolerance, evaluations, rmse) of the embedded pairs and of dopri5 of torchdiffeq."""
    from torchdiffeq import odeint

    x0, exact = truth(target, n)
    out: dict[str, list[tuple[float, int, float]]] = {}
    for k in range(2, 7):
        tolerance = 10.0**-k
        calls = [0]

        def counted(x: Tensor, t: Tensor, cond: Any = None, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return target.field(x, t)

        spread = lambda t, x, f=counted: f(x, t.expand(len(x)).contiguous())  # noqa: E731
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        got = odeint(spread, x0, ends, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
        out.setdefault("torchdiffeq dopri5", []).append((tolerance, calls[0], errors(got, exact)["rmse"]))
        for title, solver in (
            ("Tsitouras, batch", Adaptive(tolerance, tolerance, TSITOURAS, per_sample=False)),
            ("Tsitouras, per sample", Adaptive(tolerance, tolerance, TSITOURAS)),
            ("Dormand-Prince, batch", Adaptive(tolerance, tolerance, DORMAND_PRINCE, per_sample=False)),
        ):
            calls[0] = 0
            got = integrate(counted, x0, ends, solver)
            out.setdefault(title, []).append((tolerance, calls[0], errors(got, exact)["rmse"]))
    return out


def best(rows: dict[str, Any], budget: int) -> tuple[str, float]:
    found = [(v[budget]["rmse"], k) for k, v in rows.items() if "rmse" in v.get(budget, {})]
    value, name = min(found)
    return name, value


def table(results: dict[str, Any], budget: int) -> str:
    """The summary at one number of evaluations: best other library, auto_sampler, fitted solver, and their ratios."""
    lines = [
        f"| distribution, {budget} evaluations | best other library | | auto | ratio | fitted | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        rival, value = best(found["rivals"], budget)
        auto, fitted = found["auto"][budget]["rmse"], found["fitted"].get(budget, {}).get("rmse")
        tail = f"{fitted:.4f} | {fitted / value:.2f}" if fitted is not None and value > 1e-6 else " | "
        ratio = f"{auto / value:.2f}" if value > 1e-6 else ""
        lines.append(f"| {name} | {rival} | {value:.4f} | {auto:.4f} | {ratio} | {tail} |")
    return "\n".join(lines)


def full_table(found: dict[str, Any], budgets: list[int]) -> str:
    rows = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    last = {"auto": found["auto"], "fitted": found["fitted"]}
    sections = (("", found["rivals"]), ("ours: ", found["ours"]), ("", last))
    for mark, part in sections:
        for name, values in part.items():
            cells = [f"{values[b]['rmse']:.4f}" if "rmse" in values.get(b, {}) else "" for b in budgets]
            rows.append(f"| {mark}{name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def plot(name: str, found: dict[str, Any], budgets: list[int], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for rival, values in found["rivals"].items():
        if "through" in rival or rival == "torchdiffeq midpoint":
            continue  # the same numbers as others
        used = [b for b in budgets if "rmse" in values.get(b, {})]
        axes.loglog(used, [values[b]["rmse"] for b in used], "--", alpha=0.6, label=rival)
    for ours in ("Adams-Bashforth 2", "midpoint reuse", "UniPC 2", "DEIS 2"):
        used = [b for b in budgets if b in found["ours"].get(ours, {})]
        axes.loglog(used, [found["ours"][ours][b]["rmse"] for b in used], "-", alpha=0.8, label=ours)
    axes.loglog(budgets, [found["auto"][b]["rmse"] for b in budgets], "k-o", label="auto_sampler")
    if found["fitted"]:
        used = sorted(found["fitted"])
        axes.loglog(used, [found["fitted"][b]["rmse"] for b in used], "r-s", label="fit_solver")
    axes.set_xticks(budgets, [str(b) for b in budgets])
    axes.minorticks_off()
    axes.set(xlabel="evaluations", ylabel="root mean square error", title=name)
    axes.legend(fontsize=6)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(results: dict[str, Any], plots: Path) -> None:
    """Print the tables and write the plots."""
    budgets = sorted(next(iter(results.values()))["auto"])
    for name, found in results.items():
        plot(name, found, budgets, plots / f"truth-{name.replace(' ', '-').replace(',', '')}.png")
        print(f"\n### {name}\n\n{full_table(found, budgets)}")
    for budget in budgets:
        print("\n" + table(results, budget))


def _numbered(part: Any) -> Any:
    """Numbers of evaluations as int, since the keys of JSON objects are strings."""
    if not isinstance(part, dict):
        return part
    return {int(k) if k.isdigit() else k: _numbered(v) for k, v in part.items()}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parser = report.parser("truth", __doc__)
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 8, 16, 32], help="numbers of evaluations")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--fit", action="store_true", help="also fit solvers")
    parser.add_argument("--iterations", type=int, default=1000, help="iterations of each fit")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="distributions to measure; others stay in FILE")
    parser.add_argument("--plots", type=Path, default=Path("docs/figures"), metavar="DIR")
    parser.add_argument("--plot-only", type=Path, metavar="FILE", help="print and plot a result file without a run")
    given = parser.parse_args()
    settings = {"samples": given.samples, "iterations": given.iterations, "nfe": given.nfe, "fit": given.fit}
    if given.plot_only:
        show(_numbered(report.read(given.plot_only)["figures"]["distributions"]), given.plots)
        return
    with torch.no_grad():
        chosen = {
            name: (target, main_one)
            for group, main_one in ((distributions(), True), (others(), False))
            for name, target in group.items()
            if not given.only or any(part in name for part in given.only)
        }
        old = _numbered(report.read(given.output or report.RESULTS / "truth.json").get("figures", {}))
        figures: dict[str, Any] = old if given.only and old else {"distributions": {}}
        results = figures["distributions"]
        for name, (target, main_one) in chosen.items():
            share = 1 if target.dim <= 64 else 2  # 256-D costs as much as all others together
            with torch.set_grad_enabled(given.fit):
                fit = given.fit and main_one
                results[name] = measure(
                    name, target, given.samples // share, given.nfe, fit, given.iterations // share**2
                )
            report.write("truth", figures, [SEED, 11], given.output, packages=PACKAGES, **settings)
        if not given.only:
            figures["adaptive"] = {n: adaptive(d) for n, d in distributions().items() if d.dim <= 2}
    output = report.write("truth", figures, [SEED, 11], given.output, packages=PACKAGES, **settings)
    show(results, given.plots)
    for name, rows in figures.get("adaptive", {}).items():
        print(name, {k: [(calls, error) for _, calls, error in v] for k, v in rows.items()})
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
