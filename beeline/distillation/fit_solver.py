"""Solvers fitted to one flow: times and multistep weights for a small number of evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.protocols.training import Fit, Log
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.sampling.sampler import Sampler
from beeline.solvers.fitted.linear import Fitted, linear_form
from beeline.solvers.fitted.presets import CURVED, PRESETS
from beeline.solvers.integrate import integrate
from beeline.solvers.multistep import AdamsBashforth, DPMSolver, UniPC
from beeline.solvers.process import require_ode
from beeline.solvers.runge_kutta import RK4
from beeline.solvers.wrappers import SolverBase
from beeline.times.schedules import Explicit, Shifted, Uniform

STARTING_SCHEDULES: tuple[Schedule, ...] = (Uniform(), Shifted(0.6), Shifted(1.6), Shifted(2.5))


@dataclass(frozen=True)
class Problem:
    """The data of a fit: source points, their exact end points, and the guided dynamics."""

    flow: Flow
    guidance: Guidance
    x0: Tensor  # [n,*S]
    x1: Tensor  # [n,*S], from a fine solver
    cond: Cond = None
    log: Log | None = None  # called after every iteration with its number, loss and speed

    def rows(self, index: Tensor) -> Problem:
        """The problem restricted to some source points."""
        cond = map_cond(lambda leaf: leaf[index.to(leaf.device)], self.cond)
        return replace(self, x0=self.x0[index], x1=self.x1[index], cond=cond)

    def first(self, n: int) -> Problem:
        """The problem restricted to at most ``n`` source points."""
        return self.rows(torch.arange(min(len(self.x0), n), device=self.x0.device))

    def dynamics(self, times: Tensor | None = None) -> Dynamics:
        """The guided dynamics of a new run over ``times``."""
        return guidance_for_flow(self.guidance, self.flow, times)(self.flow.field, self.cond)

    def error(self, schedule: Schedule, solver: Solver, steps: int) -> float:
        """The root mean square error of the end points, per coordinate."""
        with torch.no_grad():
            times = schedule(steps).to(self.x0.dtype)
            return float((integrate(self.dynamics(times), self.x0, times, solver) - self.x1).square().mean().sqrt())


class FitBase:
    """Defaults of the Fit protocol: nothing is logged."""

    @property
    def logged(self) -> int:
        return 0


@dataclass(frozen=True)
class Bespoke(FitBase):
    """Bespoke solver: times and all multistep weights, by gradient descent on the error of the end points.

    x_i = keep_i x_0 + sum over j < i of (Adams_ij + change_ij) v_j;  minimise log E|x_N - x_1|^2
    Assumes a field that is differentiable in state and time.  It starts from the coefficients of the best of Adams-
    Bashforth, DPM-Solver++ and UniPC on a few schedules and of the presets for all flows.  The steps are a softmax, so
    times stay in [0, 1].
    Source: Shaul et al. 2024, "Bespoke Non-Stationary Solvers" (arXiv 2403.01329); CaloDREAM, Favaro et al. 2024.

    >>> Bespoke(iterations=100).order
    2
    """

    iterations: int = 400  # gradient steps
    batch: int = 512  # source points per gradient step
    lr: float = 0.01  # of Adam, after 40 iterations of warm-up, with cosine decay to zero
    order: int = 2  # of the initial Adams-Bashforth method, 1 to 4
    keep: bool = True  # whether the weights of the first state are learned too
    starts: int = 1  # fits from so many different solvers, of which the best is returned, 1 to 4

    def __post_init__(self) -> None:
        require(
            self.iterations >= 1 and self.batch >= 1 and self.lr > 0 and 1 <= self.order <= 4 and 1 <= self.starts <= 4,
            f"{self} has nothing to fit with; give at least one iteration, a batch of at least 1, a lr above 0, an "
            "order from 1 to 4 and 1 to 4 starts",
        )

    @property
    def logged(self) -> int:
        return self.iterations * self.starts

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        found = [
            self._fit(problem, form, k * self.iterations, rng) for k, form in enumerate(self._starts(problem, steps))
        ]
        return min(found, key=lambda fitted: problem.error(fitted[0], fitted[1], steps))

    def _fit(self, problem: Problem, form: Form, before: int, rng: Rng) -> tuple[Schedule, Solver]:
        """The fit from one start: the best of ten states of it; ``before`` iterations were made from others."""
        seen, few = [form.solver()], problem.first(2048)
        groups = [Group(form.parts(), self.lr)]
        for i in descend(problem, form.solve, groups, self.iterations, self.batch, rng, before):
            if (i + 1) % max(1, self.iterations // 10) == 0:
                seen.append(form.solver())
        solver = min(seen, key=lambda s: few.error(Explicit(s.times), s, len(s.rows)))
        return Explicit(solver.times), solver

    def _starts(self, problem: Problem, steps: int) -> list[Form]:
        """The forms of the best of ``starting_solvers``, each solver on its best schedule."""
        few = problem.first(2048)
        chosen: list[tuple[Schedule, Solver]] = []
        for start in sorted(
            starting_solvers(problem.flow.path, steps), key=lambda start: few.error(start[0], start[1], steps)
        ):
            if len(chosen) < self.starts and all(start[1] != solver for _, solver in chosen):
                chosen.append(start)
        forms = []
        for schedule, solver in chosen:
            known = linear_form(solver, schedule(steps))
            assert known is not None  # one evaluation per step, at its start
            form = Form(torch.tensor(known.times, dtype=torch.float64), self.order, self.keep)
            form.set(known)
            forms.append(form)
        return forms


class Group(NamedTuple):
    """Parameters with one learning rate."""

    parts: list[Tensor]
    lr: float


def descend(
    problem: Problem,
    solve: Callable[[Dynamics, Tensor], Tensor],
    groups: Sequence[Group],
    iterations: int,
    batch: int,
    rng: Rng,
    before: int = 0,
) -> Iterator[int]:
    """Minimise log E|solve(x_0) - x_1|^2 by Adam, with cosine decay to zero; gives the number of every iteration.

    ``before`` iterations were made by other fits, for the log.
    """
    parts = [part for group in groups for part in group.parts]
    optimizer = torch.optim.Adam(
        [{"params": group.parts, "lr": group.lr} for group in groups], betas=(0.9, 0.99)
    )  # gradients have heavy tails
    n, begin = len(problem.x0), time.perf_counter()
    for i in range(iterations):
        for chosen_group, group in zip(optimizer.param_groups, groups, strict=True):
            chosen_group["lr"] = group.lr * (1 + math.cos(math.pi * i / iterations)) / 2 * min(1.0, (i + 1) / 40)
        order = rng.fork("batch", i * batch // n).permutation(n)
        at = i * batch % n
        chosen = order[at : at + batch] if batch < n else torch.arange(n)
        part = problem.rows(chosen.to(problem.x0.device))
        optimizer.zero_grad()
        value = (solve(part.dynamics(), part.x0) - part.x1).square().mean().log()
        require(
            bool(value.isfinite()),
            f"the loss of the fit is not finite in iteration {i}; the field gives NaN or infinite values, or the lr "
            f"{groups[0].lr} is too high: check the field at times in [0, 1], or lower the lr",
        )
        value.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        if problem.log is not None:
            speed = (i + 1) * len(chosen) / (time.perf_counter() - begin)
            found = math.exp(float(value.detach()) / 2)
            problem.log({"step": before + i + 1, "loss": found, "samples_per_second": speed})
        yield i


class Form:
    """The parameters of a bespoke solver (float64, on the CPU).

    x_i = (1 + keep_i) x_0 + sum_j (Adams_ij + change_ij) v_j, with the Adams weights summed over all steps so far
    The change of one state leaves the weights of the later ones, which makes the fit faster than changes of steps.
    A ``consistent`` form is exact for a velocity that is constant along the trajectory: the changes sum to zero in
    every state, and ``keep`` is zero.
    """

    def __init__(self, times: Tensor, order: int, keep: bool, consistent: bool = False):
        steps = times.double().diff()
        n = len(steps)
        self.order, self.consistent = order, consistent
        self.logits = steps.log().requires_grad_()
        self.change = torch.zeros(n, n, dtype=torch.float64).requires_grad_()
        self.keep = torch.zeros(n, dtype=torch.float64).requires_grad_(keep and not consistent)

    def set(self, solver: Fitted) -> None:
        """Copy the parameters of a fitted solver, except weights of the first state that are not learned."""
        with torch.no_grad():
            self.logits.copy_(torch.tensor(solver.times, dtype=torch.float64).diff().log())
            self.change.zero_()
            n = len(solver.rows)
            known = torch.tensor([[*row, *[0.0] * (n - len(row))] for row in solver.rows], dtype=torch.float64)
            self.change.copy_(known - self.rows(self.times()))
            if self.keep.requires_grad and solver.keep:
                self.keep.copy_(torch.tensor(solver.keep, dtype=torch.float64) - 1)

    def parts(self) -> list[Tensor]:
        return [part for part in (self.logits, self.change, self.keep) if part.requires_grad]

    def times(self) -> Tensor:
        """The times [N+1], from exactly 0 to exactly 1."""
        inner = torch.softmax(self.logits, 0).cumsum(0)[:-1]
        return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])

    def rows(self, times: Tensor) -> Tensor:
        """The weights [N,N] of the velocities in every state after the first."""
        n, steps = len(times) - 1, []
        for i in range(n):
            used = [i - k for k in range(min(self.order, i + 1))]
            adams = adams_weights([times[j] for j in used], times[i], times[i + 1])
            steps.append(times.new_zeros(n).index_add(0, torch.tensor(used), adams))
        change = self.change.tril()
        if self.consistent:
            change = change - torch.diag(change.sum(1))
        return torch.stack(steps).cumsum(0) + change

    def solve(self, f: Dynamics, x0: Tensor, *, watch: Callable[[Tensor, Tensor], None] | None = None) -> Tensor:
        """The end points, with a graph to all parameters.

        ``integrate`` is given the numbers of the steps as its times; the form has the real ones.
        """
        counted = torch.linspace(0, 1, len(self.logits) + 1)
        return integrate(f, x0, counted, _Learning(self), watch=watch)

    def solver(self) -> Fitted:
        """The current parameters as a solver."""
        with torch.no_grad():
            times = self.times()
            rows = tuple(tuple(row[: i + 1]) for i, row in enumerate(self.rows(times).tolist()))
            keep = tuple((1 + self.keep).tolist()) if self.keep.requires_grad else ()
            return Fitted(tuple(times.tolist()), rows, keep)


class _Learning(SolverBase):
    """The solver of a Form during the fit."""

    order = 1

    def __init__(self, form: Form):
        self.form = form

    def init_memory(self, times: Tensor) -> Any:
        nodes = self.form.times()
        return [], [], self.form.rows(nodes), list(nodes)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        start, past, rows, nodes = memory
        i, start = len(past), start or [x]
        past = [*past, f(x, nodes[i].to(x.device, x.dtype).expand(len(x)).clone())]
        moved = (1 + self.form.keep[i]).to(x.device, x.dtype) * start[0]
        for weight, v in zip(rows[i, : i + 1].to(x.device, x.dtype), past, strict=True):
            moved = torch.addcmul(moved, v, weight)
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
    log: Log | None = None,
) -> Sampler:
    """Fit a Sampler of ``evaluations`` steps to a flow, on as many source points as ``like`` [n,*S] has rows.

    ``cond`` has one condition for each source point.  ``guidance`` is used in the fit and in the Sampler; guided steps
    cost two evaluations of the network.  ``truth`` computes the exact end points.  ``log`` is called after every
    iteration of Bespoke with a mapping of step, loss (the root mean square error of the batch) and samples_per_second.
    A quarter of the source points is held out, and the Sampler is the best on them of the fitted solver and
    ``starting_solvers``.

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
        times = truth.times().to(x0.dtype)
        x1 = integrate(guidance_for_flow(guidance, flow, times)(flow.field, cond), x0, times, truth.solver)
    problem = Problem(flow, guidance, x0, x1, cond, log)
    order = rng.fork("split").permutation(len(x0)).to(x0.device)
    held, learned = order[: len(x0) // 4], order[len(x0) // 4 :]
    schedule, solver = method(problem.rows(learned), evaluations, rng.fork("fit"))
    test, starts = problem.rows(held), starting_solvers(flow.path, evaluations)
    schedule, solver = min([(schedule, solver), *starts], key=lambda s: test.error(s[0], s[1], evaluations))
    return Sampler(evaluations, schedule, solver, guidance)


def starting_solvers(path: object, steps: int) -> list[tuple[Schedule, Solver]]:
    """Multistep solvers of the literature on several schedules, and the presets: starts of a fit.

    Solvers without a first step on the path are left out, such as DPM-Solver++ on Polynomial(2).
    """
    path = path if isinstance(path, AffinePath) else Linear()
    known: tuple[Solver, ...] = (AdamsBashforth(2), AdamsBashforth(3, ramp=True), DPMSolver(2, path), UniPC(2, path))
    starts: list[tuple[Schedule, Solver]] = [
        (s, k) for k in known for s in STARTING_SCHEDULES if linear_form(k, s(steps)) is not None
    ]
    presets = [Fitted(*known[steps]) for known in (PRESETS, CURVED) if steps in known]
    return [*starts, *((Explicit(preset.times), preset) for preset in presets)]


def best_schedule(
    problem: Problem,
    solver: Solver,
    steps: int,
    schedules: tuple[Schedule, ...] = STARTING_SCHEDULES,
) -> Schedule:
    """The schedule with the smallest error of the end points."""
    return min(schedules, key=lambda schedule: problem.error(schedule, solver, steps))


def adams_weights(nodes: list[Tensor], t: Tensor, s: Tensor) -> Tensor:
    """Adams weights of ``nodes`` over [t, s], differentiable in all times: Gauss-Legendre with three points."""
    if len(nodes) == 1:
        return (s - t)[None]
    shift, node = math.sqrt(0.6) / 2, torch.stack(nodes)
    points, weights = node.new_tensor([0.5 - shift, 0.5, 0.5 + shift]), node.new_tensor([5.0, 8.0, 5.0]) / 18
    same = torch.eye(len(nodes), dtype=torch.bool)
    gaps = (node[:, None] - node).masked_fill(same, 1.0)  # [j,k]
    factors = ((t + points * (s - t))[:, None, None] - node) / gaps  # [point,j,k]
    lagrange = math.prod(factors.masked_fill(same, 1.0).unbind(2))
    return (s - t) * (weights @ lagrange)
