"""Solvers fitted to one flow: times and multistep weights for a small number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.protocols.training import Fit
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.fitted import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth
from beeline.solvers.presets import PRESETS
from beeline.solvers.process import require_ode
from beeline.solvers.runge_kutta import RK4
from beeline.solvers.wrappers import SolverBase
from beeline.times.schedules import Explicit, Shifted, Uniform


@dataclass(frozen=True)
class Problem:
    """The data of a fit: source points, their exact end points, and the guided dynamics."""

    flow: Flow
    guidance: Guidance
    x0: Tensor  # [n,*S]
    x1: Tensor  # [n,*S], from a fine solver
    cond: Cond = None

    def rows(self, index: Tensor) -> Problem:
        """The problem restricted to some source points."""
        cond = map_cond(lambda leaf: leaf[index.to(leaf.device)], self.cond)
        return Problem(self.flow, self.guidance, self.x0[index], self.x1[index], cond)

    def dynamics(self) -> Dynamics:
        """The guided dynamics of a new run."""
        return guidance_for_flow(self.guidance, self.flow)(self.flow.field, self.cond)

    def error(self, schedule: Schedule, solver: Solver, steps: int) -> float:
        """The root mean square error of the end points, per coordinate."""
        with torch.no_grad():
            times = schedule(steps).to(self.x0.dtype)
            return float((integrate(self.dynamics(), self.x0, times, solver) - self.x1).square().mean().sqrt())


@dataclass(frozen=True)
class Bespoke:
    """Bespoke solver: times and all multistep weights, by gradient descent on the error of the end points.

    x_i+1 = x_i + keep_i x_0 + h_i sum_j (Adams_ij + change_ij) v_j;  minimise log E|x_N - x_1|^2
    Assumes a field that is differentiable in state and time.  It is initialised to Adams-Bashforth on the best of a few
    schedules, or to the preset for all flows if that is better.  The steps are a softmax, so times stay in [0, 1].
    Source: Shaul et al. 2024, "Bespoke Non-Stationary Solvers" (arXiv 2403.01329); CaloDREAM, Favaro et al. 2024.

    >>> Bespoke(iterations=100).order
    2
    """

    iterations: int = 400  # gradient steps
    batch: int = 512  # source points per gradient step
    lr: float = 0.01  # of Adam, with cosine decay to zero
    order: int = 2  # of the initial Adams-Bashforth method, 1 to 4
    keep: bool = True  # whether the weights of the first state are learned too

    def __post_init__(self) -> None:
        require(
            self.iterations >= 1 and self.batch >= 1 and self.lr > 0 and 1 <= self.order <= 4,
            f"{self} has nothing to fit with; give at least one iteration, a batch of at least 1, a lr above 0 and an "
            "order from 1 to 4",
        )

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        form = self._start(problem, steps)
        optimizer = torch.optim.Adam(form.parts(), lr=self.lr)
        n = len(problem.x0)

        def loss(part: Problem) -> Tensor:
            return (form.solve(part.dynamics(), part.x0) - part.x1).square().mean().log()

        for i in range(self.iterations):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (1 + math.cos(math.pi * i / self.iterations)) / 2
            order = rng.fork("batch", i * self.batch // n).permutation(n)
            at = i * self.batch % n
            chosen = order[at : at + self.batch] if self.batch < n else torch.arange(n)
            optimizer.zero_grad()
            value = loss(problem.rows(chosen.to(problem.x0.device)))
            require(
                bool(value.isfinite()),
                f"the loss of the fit is not finite in iteration {i}; the field gives NaN or infinite values, or the "
                f"lr {self.lr} is too high: check the field at times in [0, 1], or lower the lr",
            )
            value.backward()
            torch.nn.utils.clip_grad_norm_(form.parts(), 1.0)
            optimizer.step()
        solver = form.solver()
        return Explicit(solver.times), solver

    def _start(self, problem: Problem, steps: int) -> Form:
        """Adams-Bashforth on the best of a few schedules, or the preset for all flows if that is better."""
        plain = AdamsBashforth(self.order, ramp=True)
        schedule = best_schedule(problem, plain, steps)
        form = Form(schedule(steps), self.order, self.keep)
        if steps in PRESETS:
            known = Fitted(*PRESETS[steps])
            if problem.error(Explicit(known.times), known, steps) < problem.error(schedule, plain, steps):
                form.set(known)
        return form


class Form:
    """The parameters of a bespoke solver (float64, on the CPU)."""

    def __init__(self, times: Tensor, order: int, keep: bool):
        steps = times.double().diff()
        n = len(steps)
        self.order = order
        self.logits = steps.log().requires_grad_()
        self.change = torch.zeros(n, n, dtype=torch.float64).requires_grad_()
        self.keep = torch.zeros(n, dtype=torch.float64).requires_grad_(keep)

    def set(self, solver: Fitted) -> None:
        """Copy the parameters of a fitted solver, except weights of the first state that are not learned."""
        with torch.no_grad():
            self.logits.copy_(torch.tensor(solver.times, dtype=torch.float64).diff().log())
            times, before = self.times(), torch.zeros_like(self.keep)
            for i, (row, adams) in enumerate(zip(solver.rows, self.rows(times), strict=True)):
                now = torch.tensor(row, dtype=torch.float64)
                own = adams - (times[i + 1] - times[i]) * self.change[i, : i + 1]
                self.change[i, : i + 1] = (now - before[: i + 1] - own) / (times[i + 1] - times[i])
                before[: i + 1] = now
            if self.keep.requires_grad and solver.keep:
                keep = torch.tensor((1.0, *solver.keep), dtype=torch.float64)
                self.keep.copy_(keep.diff())

    def parts(self) -> list[Tensor]:
        return [part for part in (self.logits, self.change, self.keep) if part.requires_grad]

    def times(self) -> Tensor:
        """The times [N+1], from exactly 0 to exactly 1."""
        inner = torch.softmax(self.logits, 0).cumsum(0)[:-1]
        return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])

    def rows(self, times: Tensor, sums_to_one: bool = False) -> list[Tensor]:
        """The weights of the velocities in every step; with ``sums_to_one`` their changes sum to zero in every step."""
        out = []
        for i in range(len(times) - 1):
            used = [i - k for k in range(min(self.order, i + 1))]
            adams = adams_weights([times[j] for j in used], times[i], times[i + 1])
            change = self.change[i, : i + 1]
            if sums_to_one:
                change = torch.cat([change[:-1], -change[:-1].sum()[None]])
            out.append(((times[i + 1] - times[i]) * change).index_add(0, torch.tensor(used), adams))
        return out

    def solve(
        self,
        f: Dynamics,
        x0: Tensor,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        sums_to_one: bool = False,
    ) -> Tensor:
        """The end points, with a graph to all parameters.

        ``integrate`` is given the numbers of the steps as its times; the form has the real ones.
        """
        counted = torch.linspace(0, 1, len(self.logits) + 1)
        return integrate(f, x0, counted, _Learning(self, sums_to_one), watch=watch)

    def solver(self, sums_to_one: bool = False) -> Fitted:
        """The current parameters as a solver."""
        with torch.no_grad():
            times = self.times()
            total, sums = torch.zeros(len(self.logits), dtype=torch.float64), []
            for i, row in enumerate(self.rows(times, sums_to_one)):
                total[: i + 1] += row
                sums.append(tuple(total[: i + 1].tolist()))
            keep = tuple((1 + self.keep.cumsum(0)).tolist()) if self.keep.requires_grad else ()
            return Fitted(tuple(times.tolist()), tuple(sums), keep)


class _Learning(SolverBase):
    """The solver of a Form during the fit."""

    order = 1

    def __init__(self, form: Form, sums_to_one: bool):
        self.form, self.sums_to_one = form, sums_to_one

    def init_memory(self, times: Tensor) -> Any:
        nodes = self.form.times()
        return [], [], self.form.rows(nodes, self.sums_to_one), list(nodes)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, past, rows, nodes = memory
        i, start = len(past), start or [x]
        past = [*past, f(x, nodes[i].to(x.device, x.dtype).expand(len(x)).clone())]
        moved = x + self.form.keep[i].to(x.device, x.dtype) * start[0]
        for weight, v in zip(rows[i].to(x.device, x.dtype), past, strict=True):
            moved = moved + weight * v
        return moved, (start, past, rows, nodes)


def fit_solver(
    flow: Flow,
    evaluations: int = 8,
    *,
    like: Tensor,
    rng: Rng,
    cond: Cond = None,
    guidance: Guidance | None = None,
    method: Fit | None = None,
    truth: Sampler | None = None,
) -> Sampler:
    """Fit a Sampler of ``evaluations`` steps to a flow, on as many source points as ``like`` [n,*S] has rows.

    ``cond`` has one condition for each source point.  ``guidance`` is used in the fit and in the Sampler; guided steps
    cost two evaluations of the network.  ``truth`` computes the exact end points.  A quarter of the source points is
    held out: if AdamsBashforth(2) has a smaller error on them, the Sampler has that solver.

    >>> flow = Flow(lambda x, t, cond=None: -t[:, None] * x)
    >>> fit_solver(flow, 2, like=torch.empty(64, 1), rng=Rng(0), method=Bespoke(iterations=5)).steps
    2
    """
    require_ode(flow, "a fitted solver")
    require(
        isinstance(evaluations, int) and evaluations >= 1,
        f"fit_solver got evaluations={evaluations!r}; a sampler has at least one step: give a whole number from 1",
    )
    require(
        len(like) >= 8,
        f"fit_solver got like= with {len(like)} rows; a fit on so few source points does not generalise: give a few "
        "hundred rows",
    )
    guidance, method, truth = guidance or Plain(), method or Bespoke(), truth or Sampler(32, solver=RK4)
    x0 = flow.source.sample(like, rng.fork("noise"))
    with torch.no_grad():
        x1 = integrate(
            guidance_for_flow(guidance, flow)(flow.field, cond), x0, truth.times().to(x0.dtype), truth.solver
        )
    problem = Problem(flow, guidance, x0, x1, cond)
    order = rng.fork("split").permutation(len(x0)).to(x0.device)
    held, learned = order[: len(x0) // 4], order[len(x0) // 4 :]
    schedule, solver = method(problem.rows(learned), evaluations, rng.fork("fit"))
    test, plain = problem.rows(held), AdamsBashforth(2)
    if test.error(Uniform(), plain, evaluations) < test.error(schedule, solver, evaluations):
        schedule, solver = Uniform(), plain
    return Sampler(evaluations, schedule, solver, guidance)


def best_schedule(
    problem: Problem,
    solver: Solver,
    steps: int,
    schedules: tuple[Schedule, ...] = (Uniform(), Shifted(0.6), Shifted(1.6), Shifted(2.5)),
) -> Schedule:
    """The schedule with the smallest error of the end points."""
    return min(schedules, key=lambda schedule: problem.error(schedule, solver, steps))


def adams_weights(nodes: list[Tensor], t: Tensor, s: Tensor) -> Tensor:
    """Adams weights of ``nodes`` over [t, s], differentiable in all times: Gauss-Legendre with three points."""
    shift = math.sqrt(0.6) / 2
    points = [(0.5 - shift, 5 / 18), (0.5, 8 / 18), (0.5 + shift, 5 / 18)]
    out = []
    for j, node in enumerate(nodes):
        total = torch.zeros_like(t)
        for z, w in points:
            at, value = t + z * (s - t), torch.ones_like(t)
            for k, other in enumerate(nodes):
                if k != j:
                    value = value * (at - other) / (node - other)
            total = total + w * value
        out.append((s - t) * total)
    return torch.stack(out)
