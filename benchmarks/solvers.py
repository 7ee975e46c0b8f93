"""Solvers: overhead, memory, distributions under stochastic sampling, and inversion of a trained flow.

    python -m benchmarks.solvers [--bundle DIR --data NAME] [--output FILE]

The bundle is one of images, such as that of ``beeline demo``; without it inversion is not measured.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.fields.flow import Flow
from beeline.runs.bundle import load
from beeline.sampling.auto import auto_sampler
from beeline.sampling.sampler import Sampler
from beeline.solvers.diffusions import Fading, White
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, DPMSolver
from beeline.solvers.reversible import FixedPoint, Reversible
from beeline.solvers.runge_kutta import EULER, HEUN, MIDPOINT, MidpointReuse
from beeline.solvers.sde import EulerMaruyama, Refresh
from benchmarks import report


def best_of(rounds: int, run: Callable[[], Any]) -> float:
    """Seconds of the fastest round, which a busy machine affects least."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def overhead() -> dict[str, float]:
    x, steps = torch.zeros(64, 2), 400
    still, times = torch.zeros_like(x), torch.linspace(0, 1, steps + 1)
    empty = lambda x, t: still  # noqa: E731
    out = {}
    for name, solver in (("Euler", EULER), ("Adams-Bashforth 2", AdamsBashforth(2)), ("DPM-Solver++ 2M", DPMSolver(2))):
        seconds = best_of(40, lambda s=solver: integrate(empty, x, times, s))
        out[f"{name}, microseconds a step"] = round(seconds / steps * 1e6, 2)
    bare = best_of(40, lambda: [x + 0.0025 * empty(x, None) for _ in range(steps)])
    out["x + h v in a plain loop, microseconds"] = round(bare / steps * 1e6, 2)

    inside = 0.0

    def slow(x: Tensor, t: Tensor) -> Tensor:
        nonlocal inside
        begin = time.thread_time()
        while time.thread_time() < begin + 0.005:
            pass
        inside += time.thread_time() - begin
        return still

    ratios = []
    for _ in range(8):
        inside, begin = 0.0, time.thread_time()
        integrate(slow, x, torch.linspace(0, 1, 21), EULER)
        ratios.append((time.thread_time() - begin) / inside)
    out["field of 5 ms: processor time of a run over that inside the field, best of 8"] = round(min(ratios), 5)
    return out


def memory() -> dict[str, int]:
    """Peak of Python's memory in an integration of 100 and of 10 000 steps."""
    out = {}
    for steps in (100, 10_000):
        x, times = torch.zeros(64, 2), torch.linspace(0, 1, steps + 1)
        tracemalloc.start()
        integrate(lambda x, t: torch.zeros_like(x), x, times, EULER)
        out[f"{steps} steps, peak bytes of Python"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return out


def noise() -> dict[str, Any]:
    """Energy distance of samples of 64 steps to the distribution, with its real-vs-real baseline (two samples)."""
    target = GaussianMixture.ring()
    n = 3000
    x0 = Rng(0).normal(torch.empty(n, 2, dtype=torch.float64))
    real, other = (target.sample(n, Rng(k)).double() for k in (1, 2))

    def energy(a: Tensor, b: Tensor) -> float:
        inner = lambda c: torch.cdist(c, c).sum() / (len(c) * (len(c) - 1))  # noqa: E731
        return float(2 * torch.cdist(a, b).mean() - inner(a) - inner(b))

    baselines = [
        energy(target.sample(n, Rng(10 + k)).double(), target.sample(n, Rng(50 + k)).double()) for k in range(12)
    ]
    out: dict[str, Any] = {
        "real-vs-real baseline, largest of 12": round(max(baselines), 6),
        "real-vs-real baseline": round(energy(real, other), 6),
    }
    for strength in (0.0, 1.0, 4.0):
        for name, solver in (
            ("Euler-Maruyama", EulerMaruyama(White(Rng(3)), Fading(strength))),
            ("Euler-Maruyama, corrected", EulerMaruyama(White(Rng(3)), Fading(strength), heun=True)),
            ("Refresh", Refresh(White(Rng(3)), Fading(strength))),
        ):
            made = Sampler(64, solver=solver)(Flow(target.field()), x0)
            out[f"{name}, strength {strength:g}"] = round(energy(made, real), 6)
    return out


def inversion(where: str, data: str, n: int = 64) -> dict[str, float | str]:
    """Root mean square error of data -> source -> data at equal evaluations, and of samples against a fine solver."""
    bundle = load(where)
    _, raw = config.parse(data, "data").load()
    batch = bundle.modality.encode(raw)
    x1, flow = batch.x1[:n], bundle.flow
    cond = {key: leaf[:n] for key, leaf in batch.cond.items()} if batch.cond else None
    miss = lambda a, b: round(float((a - b).square().mean().sqrt()), 7)  # noqa: E731
    out: dict[str, float | str] = {}
    for name, sampler in (
        ("Euler, 17 evaluations each way", Sampler(17, solver=EULER)),
        ("midpoint, 16", Sampler(8, solver=MIDPOINT)),
        ("midpoint reuse, 17", Sampler(16, solver=MidpointReuse())),
        ("fixed-point inverse of Euler, 17 steps", Sampler(17, solver=FixedPoint(EULER, 1e-5))),
        ("fixed-point inverse of Euler, 100 steps", Sampler(100, solver=FixedPoint(EULER, 1e-5))),
    ):
        try:
            out[name] = miss(sampler(flow, sampler.invert(flow, x1, cond), cond), x1)
        except BeelineError as error:  # a step of a fixed-point inverse may not converge
            out[name] = str(error)[:110]
    reversible = Sampler(16, solver=Reversible())
    back = reversible(flow, reversible.invert(flow, Reversible().lift(x1), cond, augmented=True), cond, augmented=True)
    out["reversible, 16 steps"] = miss(Reversible().lower(back), x1)
    x0 = Rng(5).normal(x1)
    exact = Sampler(100, solver=MIDPOINT)(flow, x0, cond)
    for name, sampler in (
        ("Euler", Sampler(8, solver=EULER)),
        ("midpoint", Sampler(4, solver=MIDPOINT)),
        ("Heun", Sampler(4, solver=HEUN)),
        ("Adams-Bashforth 2", Sampler(8, solver=AdamsBashforth(2))),
        ("auto", auto_sampler(8, independent=flow.independent)),
    ):
        out[f"sampling with 8 evaluations against 200: {name}"] = miss(sampler(flow, x0, cond), exact)
    return out


def main() -> None:
    torch.set_num_threads(1)
    parser = report.parser("solvers", __doc__)
    parser.add_argument("--bundle", metavar="DIR", help="bundle of a flow of images")
    parser.add_argument("--data", default="data.Digits", metavar="NAME", help="data set of the bundle")
    given = parser.parse_args()
    figures: dict[str, Any] = {"overhead": overhead(), "memory": memory(), "noise": noise()}
    if given.bundle:
        figures["inversion"] = inversion(given.bundle, given.data)
    for title, rows in figures.items():
        print(f"\n{title}")
        for name, value in rows.items():
            print(f"  {name}: {value}")
    print(f"\nwritten to {report.write('solvers', figures, [0, 1, 2, 3, 5], given.output, bundle=given.bundle)}")


if __name__ == "__main__":
    main()
