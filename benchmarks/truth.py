"""Which solver gets nearest to the exact end points, for how many evaluations: ours and other libraries', in one run.

    python -m benchmarks.truth [--fit] [--budgets 4 8 16 32] [--noises 1024] [--plots DIR]

The laws are mixtures whose velocity is known, so that the end point of every noise is known too (an adaptive solver at
1e-7 in float64).  The figure is the root mean square error per coordinate over noises; beside it stands its median over
samples, since a few noises next to a border between modes dominate the former.  ``--fit`` adds solvers fitted to each
law on other noises.  The last three laws of the five were chosen before anything was tuned.
"""

from __future__ import annotations

import argparse
import json
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
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Cosine, Linear, Polynomial
from beeline.sampling.auto import auto_sampler
from beeline.solvers.adaptive import DORMAND_PRINCE, TSITOURAS, Adaptive
from beeline.solvers.exponential import Ratio
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import DEIS, AdamsBashforth, DPMSolver, Exponential, UniPC
from beeline.solvers.runge_kutta import EULER, HEUN, MIDPOINT, RALSTON, RK3, RK4, MidpointReuse, Taylor
from beeline.times.samplers import LogitNormal
from beeline.times.schedules import Cosine as CosineSteps
from beeline.times.schedules import Karras, Power, Quantiles, Shifted, Uniform
from benchmarks.presets import isotropic
from benchmarks.report import write
from benchmarks.rivals import rivals

SEED = 7
DENSE = Quantiles(LogitNormal(-0.5, 2.0))


@dataclass(frozen=True)
class Law:
    """An exact flow."""

    field: Callable[[Tensor, Tensor], Tensor]
    dim: int
    path: AffinePath = Linear()

    @property
    def flow(self) -> Flow:
        return Flow(lambda x, t, cond=None: self.field(x, t), self.path)


def mixture(seed: int, modes: int, dim: int, width: float, stds: float | Tensor) -> Law:
    means = width * Rng(seed).normal(torch.empty(modes, dim, dtype=torch.float64))
    stds = torch.as_tensor(stds, dtype=torch.float64).expand(modes)
    law = Law(isotropic(means, stds), dim)
    exact = GaussianMixture(tuple(map(tuple, means.tolist())), tuple(stds.tolist())).field()
    x, t = Rng(0).normal(torch.empty(4, dim, dtype=torch.float64)), torch.linspace(0, 1, 4, dtype=torch.float64)
    assert torch.allclose(law.field(x, t), exact(x, t), atol=1e-8)
    return law


def ring() -> Law:
    turn = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return Law(isotropic(4 * torch.stack([turn.cos(), turn.sin()], 1), torch.full((8,), 0.3, dtype=torch.float64)), 2)


def reflowed(dim: int = 16) -> Law:
    """A product of equal two-mode laws, reflowed: every trajectory is the straight line to its quantile."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    grid = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    cdf = (normal.cdf((grid + 2) / 0.5) + normal.cdf((grid - 2) / 0.5)) / 2
    goal = torch.searchsorted(cdf, normal.cdf(grid).clamp(float(cdf[1]), float(cdf[-2]))).clamp(1, len(grid) - 1)
    share = (normal.cdf(grid) - cdf[goal - 1]) / (cdf[goal] - cdf[goal - 1]).clamp(min=1e-300)
    goals = grid[goal - 1] + share.clamp(0, 1) * (grid[1] - grid[0])

    def field(x: Tensor, t: Tensor) -> Tensor:
        now = (1 - t[:, None]) * grid + t[:, None] * goals  # rising in the source, so that it can be inverted
        at = torch.searchsorted(now, x.contiguous()).clamp(1, len(grid) - 1)
        low, high = now.gather(1, at - 1), now.gather(1, at)
        share = ((x - low) / (high - low)).clamp(0, 1)
        slope = goals - grid
        return slope[at - 1] + share * (slope[at] - slope[at - 1])

    return Law(field, dim)


def laws() -> dict[str, Law]:
    """The two laws of the task and three more, all on the straight path."""
    uneven = 10 ** torch.linspace(math.log10(0.05), 0, 12, dtype=torch.float64)
    return {
        "8 modes, 2-D": mixture(0, 8, 2, 2.0, 0.3),
        "20 modes, 64-D": mixture(1, 20, 64, 1.0, 0.25),
        "ring of 8, 2-D": ring(),
        "12 uneven modes, 16-D": mixture(2, 12, 16, 1.5, uneven),
        "10 modes, 256-D": mixture(3, 10, 256, 1.0, 0.5),
    }


def others() -> dict[str, Law]:
    """The first law on another straight path and on a curved one, and a reflowed law."""
    means = 2 * Rng(0).normal(torch.empty(8, 2, dtype=torch.float64))
    law = GaussianMixture(tuple(map(tuple, means.tolist())), 0.3)
    return {
        "8 modes, slow start": Law(law.field(Polynomial(2.0)), 2, Polynomial(2.0)),
        "8 modes, cosine path": Law(law.field(Cosine()), 2, Cosine()),
        "two modes in 16-D, reflowed": reflowed(),
    }


def solvers(path: AffinePath) -> dict[str, tuple[int, Solver]]:
    """Name -> (evaluations that every step costs, solver)."""
    return {
        "Euler": (1, EULER),
        "midpoint": (2, MIDPOINT),
        "Heun": (2, HEUN),
        "Ralston": (2, RALSTON),
        "RK3": (3, RK3),
        "RK4": (4, RK4),
        "Taylor 1/3": (2, Taylor(1 / 3)),
        "midpoint reuse": (1, MidpointReuse()),  # one evaluation more for the first step: a step less
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


def truth(law: Law, n: int) -> tuple[Tensor, Tensor]:
    x0 = Rng(SEED).normal(torch.empty(n, law.dim, dtype=torch.float64))
    whole = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return x0, integrate(law.flow.field, x0, whole, Adaptive(1e-7, 1e-7))


def errors(got: Tensor, exact: Tensor) -> dict[str, float]:
    each = (got - exact).square().mean(1)
    return {"rmse": round(float(each.mean().sqrt()), 6), "median": round(float(each.median().sqrt()), 6)}


def walk(law: Law, x0: Tensor, solver: Solver, per: int, budget: int, schedule: Schedule) -> Tensor | None:
    steps = budget // per - isinstance(solver, MidpointReuse)
    try:
        return None if steps < 1 else integrate(law.flow.field, x0, schedule(steps).double(), solver)
    except BeelineError:  # a path on which the solver's formula has no first step, as Polynomial for data estimates
        return None


def measure(
    name: str, law: Law, n: int, budgets: list[int], fit: bool, iterations: int, fitted_at: tuple[int, ...] = (8,)
) -> dict[str, Any]:
    """{"rivals"|"ours"|"auto"|"fitted"|"schedules at 8": {name: {budget: errors}}}"""
    begin = time.perf_counter()
    x0, exact = truth(law, n)
    out: dict[str, Any] = {"rivals": {}, "ours": {}, "auto": {}, "fitted": {}, "schedules at 8": {}}
    for rival, (_, draw) in rivals().items():
        for budget in budgets:
            calls = [0]

            def counted(x: Tensor, t: Tensor, calls: list[int] = calls) -> Tensor:
                calls[0] += 1
                return law.field(x, t)

            try:
                got = draw(counted, x0, budget)
            except Exception as error:  # a rival that cannot: said, not hidden
                out["rivals"].setdefault(rival, {})[budget] = {"error": str(error)[:100]}
                continue
            assert calls[0] <= budget, (rival, budget, calls)
            out["rivals"].setdefault(rival, {})[budget] = errors(got, exact)
    for title, (per, solver) in solvers(law.path).items():
        for budget in budgets:
            got_or_none = walk(law, x0, solver, per, budget, Uniform())
            if got_or_none is not None:
                out["ours"].setdefault(title, {})[budget] = errors(got_or_none, exact)
        for kind, schedule in schedules().items() if law.dim <= 2 else ():  # nine times the work: on small laws
            got_or_none = walk(law, x0, solver, per, 8, schedule)
            if got_or_none is not None:
                out["schedules at 8"].setdefault(title, {})[kind] = errors(got_or_none, exact)["rmse"]
    for budget in budgets:
        sampler = auto_sampler(budget, path=law.path)
        assert (sampler.evaluations or 0) <= budget
        out["auto"][budget] = errors(sampler(law.flow, x0), exact)
        if fit and budget in fitted_at:
            like = torch.empty(4096, law.dim, dtype=torch.float64)
            method = Bespoke(iterations, batch=1024, lr=0.01 if law.dim < 32 else 0.005, order=3)
            fitted = fit_solver(law.flow, budget, like=like, rng=Rng(11), method=method)
            out["fitted"][budget] = errors(fitted(law.flow, x0), exact)
    out["seconds"] = round(time.perf_counter() - begin, 1)
    print(f"{name}: {out['seconds']} s\n{table({name: out}, 8)}" if 8 in budgets else name, flush=True)
    return out


def adaptive(law: Law, n: int = 256) -> dict[str, list[tuple[float, int, float]]]:
    """(tolerance, evaluations, rmse) of our pairs and of torchdiffeq's dopri5."""
    from torchdiffeq import odeint

    x0, exact = truth(law, n)
    out: dict[str, list[tuple[float, int, float]]] = {}
    for k in range(2, 7):
        tolerance = 10.0**-k
        calls = [0]

        def counted(x: Tensor, t: Tensor, cond: Any = None, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return law.field(x, t)

        spread = lambda t, x, f=counted: f(x, t.expand(len(x)).contiguous())  # noqa: E731
        whole = torch.tensor([0.0, 1.0], dtype=torch.float64)
        got = odeint(spread, x0, whole, rtol=tolerance, atol=tolerance, method="dopri5")[-1]
        out.setdefault("torchdiffeq dopri5", []).append((tolerance, calls[0], errors(got, exact)["rmse"]))
        for title, solver in (
            ("Tsitouras, batch", Adaptive(tolerance, tolerance, TSITOURAS, per_sample=False)),
            ("Tsitouras, per sample", Adaptive(tolerance, tolerance, TSITOURAS)),
            ("Dormand-Prince, batch", Adaptive(tolerance, tolerance, DORMAND_PRINCE, per_sample=False)),
        ):
            calls[0] = 0
            got = integrate(counted, x0, whole, solver)
            out.setdefault(title, []).append((tolerance, calls[0], errors(got, exact)["rmse"]))
    return out


def best(rows: dict[str, Any], budget: int) -> tuple[str, float]:
    found = [(v[budget]["rmse"], k) for k, v in rows.items() if "rmse" in v.get(budget, {})]
    value, name = min(found)
    return name, value


def table(results: dict[str, Any], budget: int) -> str:
    """The summary at one budget: the best rival, the chosen fixed solver, the fitted one, and their ratios."""
    lines = [
        f"| law, {budget} evaluations | best rival | | auto | ratio | fitted | ratio |",
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
    sections = (
        ("", found["rivals"]),
        ("ours: ", found["ours"]),
        ("", {"auto": found["auto"], "fitted": found["fitted"]}),
    )
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
    """The tables on the screen, the plots in a folder."""
    budgets = sorted(next(iter(results.values()))["auto"])
    for name, found in results.items():
        plot(name, found, budgets, plots / f"truth-{name.replace(' ', '-').replace(',', '')}.png")
        print(f"\n### {name}\n\n{full_table(found, budgets)}")
    for budget in budgets:
        print("\n" + table(results, budget))


def _numbered(part: Any) -> Any:
    """JSON has no numbers for names: budgets back to int."""
    if not isinstance(part, dict):
        return part
    return {int(k) if k.isdigit() else k: _numbered(v) for k, v in part.items()}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--noises", type=int, default=1024)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--only", nargs="+", help="names of laws, or parts of them")
    parser.add_argument("--plots", type=Path, default=Path("docs/figures"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--redraw", type=Path, help="print the tables and draw the plots of a result, without a run")
    given = parser.parse_args()
    if given.redraw:
        show(_numbered(json.loads(given.redraw.read_text())["figures"]["distributions"]), given.plots)
        return
    with torch.no_grad():
        chosen = {
            name: (law, main_one)
            for group, main_one in ((laws(), True), (others(), False))
            for name, law in group.items()
            if not given.only or any(part in name for part in given.only)
        }
        results = {}
        for name, (law, main_one) in chosen.items():
            with torch.set_grad_enabled(given.fit):
                fit = given.fit and main_one
                # the widest law costs as much as all others together: half the noises, half the iterations
                share = 1 if law.dim <= 64 else 2
                results[name] = measure(name, law, given.noises // share, given.budgets, fit, given.iterations // share)
                write("truth", {"distributions": results}, [SEED, 11], given.json, noises=given.noises)
        figures: dict[str, Any] = {"distributions": results}
        if not given.only:
            figures["adaptive"] = {name: adaptive(law) for name, law in laws().items() if law.dim <= 2}
    target = write("truth", figures, [SEED, 11], given.json, noises=given.noises, iterations=given.iterations)
    show(results, given.plots)
    for name, rows in figures.get("adaptive", {}).items():
        print(name, {k: [(calls, error) for _, calls, error in v] for k, v in rows.items()})
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
