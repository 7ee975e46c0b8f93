"""Fits of parts of a sampler: its times, the times given to the field, or a few coefficients per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Schedule, Solver
from beeline.core.ranges import Count, NonNegative, Positive, Range, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Dynamics
from beeline.distillation.fit_solver import FitBase, Form, Problem, starting_solvers
from beeline.solvers.fitted.linear import Fitted
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import EULER, MIDPOINT
from beeline.times.schedules import Explicit, Shifted, Uniform


@dataclass(frozen=True)
class Chosen(FitBase):
    """The best of known solvers on a few schedules, measured on the flow, without a fit.

    argmin over ``starting_solvers`` of E|x_N - x_1|^2
    Its cost is the fine solution and about twenty runs of the given number of steps for every source point.

    >>> Chosen()
    Chosen()
    """

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        return min(
            starting_solvers(problem.flow.path, steps), key=lambda start: problem.error(start[0], start[1], steps)
        )


@dataclass(frozen=True)
class Bellman(FitBase):
    """The grid with the smallest sum of one-step errors along a fine trajectory, by dynamic programming.

    cost_ij = E|x_i + (t_j - t_i) v_i - x_j|^2,  V_k(i) = min over j > i of cost_ij + V_k-1(j)
    Assumes that small local errors give a small error at the end; this fails where trajectories diverge, which
    amplifies early errors.  With ``checked`` the result is the uniform grid where its end points are better.
    Source: Nguyen et al. 2024, "Bellman Optimal Stepsize Straightening of Flow-Matching Models" (arXiv 2312.16414).

    >>> Bellman(fine=20).checked
    True
    """

    fine: Count = 100  # steps of the fine trajectory, from which nodes are chosen
    solver: Solver = EULER  # on the grid
    checked: bool = True  # compare with the uniform grid

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        require(
            steps <= self.fine,
            f"Bellman got {steps} steps and fine={self.fine}; nodes are chosen from the fine ones: set fine= to at "
            "least the number of steps",
        )
        with torch.no_grad():
            cost = jump_costs(problem, self.fine)
        nodes = shortest(cost, steps)
        found = Explicit(tuple(n / self.fine for n in nodes))
        if self.checked and problem.error(Uniform(), self.solver, steps) < problem.error(found, self.solver, steps):
            return Uniform(), self.solver
        return found, self.solver


def jump_costs(problem: Problem, fine: int) -> Tensor:
    """[K+1,K+1] mean squared error of one Euler step from node i to node j of a fine trajectory; inf for j <= i."""
    states: list[Tensor] = []
    times = torch.linspace(0, 1, fine + 1, dtype=problem.x0.dtype)
    f = problem.dynamics()
    integrate(f, problem.x0, times, EULER, watch=lambda x, t: states.append(x))
    cost = torch.full((fine + 1, fine + 1), math.inf, dtype=torch.float64)
    for i in range(fine):
        slope = (states[i + 1] - states[i]) / (times[i + 1] - times[i])
        for j in range(i + 1, fine + 1):
            error = states[i] + (times[j] - times[i]) * slope - states[j]
            cost[i, j] = float(error.square().flatten(1).sum(1).mean())
    return cost


def shortest(cost: Tensor, steps: int) -> list[int]:
    """The nodes 0 = n_0 < ... < n_steps = K of the cheapest path of exactly ``steps`` steps."""
    last = len(cost) - 1
    value = cost[:, last].clone()
    choices: list[Tensor] = []
    for _ in range(steps - 1):
        value, choice = (cost + value[None]).min(1)
        choices.append(choice)
    nodes = [0]
    for choice in reversed(choices):
        nodes.append(int(choice[nodes[-1]]))
    return [*nodes, last]


@dataclass(frozen=True)
class AlignedSteps(FitBase):
    """Euler steps with the velocity at fitted times, which differ from those of the grid.

    x_i+1 = x_i + h v(x_i, tau_i),  tau_i = argmin E|x_i + h v(x_i, tau) - fine solution from x_i|^2
    Assumes a field that takes any time in [0, 1].
    Source: Xia et al. 2024, "Towards More Accurate Diffusion Model Acceleration with A Timestep Tuner"
    (arXiv 2310.09469); the target is the fine solution instead of noised data.

    >>> AlignedSteps(candidates=5).candidates
    5
    """

    schedule: Schedule = field(default_factory=Uniform)
    candidates: Annotated[int, Range(least=3)] = 21  # times tried per step before the golden-section search
    fine: Count = 8  # midpoint steps of the target of a step

    @torch.no_grad()
    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        nodes, f, x, fitted = self.schedule(steps).tolist(), problem.dynamics(), problem.x0, []
        for t, s in zip(nodes, nodes[1:], strict=False):
            target = fine_step(f, x, t, s, self.fine)

            def error(tau: float, x: Tensor = x, h: float = s - t, target: Tensor = target) -> float:
                return float((x + h * f(x, x.new_full((len(x),), tau)) - target).square().mean())

            grid = [t + (s - t) * k / (self.candidates - 1) for k in range(self.candidates)]
            best = min(range(len(grid)), key=lambda k: error(grid[k]))
            fitted.append(golden(error, grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]))
            x = x + (s - t) * f(x, x.new_full((len(x),), fitted[-1]))
        rows = [[b - a for a, b in zip(nodes, nodes[1:], strict=False)][: i + 1] for i in range(steps)]
        return Explicit(tuple(nodes)), Fitted(tuple(nodes), tuple(map(tuple, rows)), (), tuple(fitted))


def fine_step(f: Dynamics, x: Tensor, t: float, s: float, steps: int) -> Tensor:
    """The state at s by ``steps`` midpoint steps from (x, t)."""
    return integrate(f, x, torch.linspace(t, s, steps + 1, dtype=x.dtype), MIDPOINT)


def golden(function: object, low: float, high: float, rounds: int = 16) -> float:
    """The position of the minimum of a function on [low, high], by golden-section search."""
    assert callable(function)
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = function(a), function(b)
    for _ in range(rounds):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = function(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = function(b)
    return (low + high) / 2


@dataclass(frozen=True)
class Improved(FitBase):
    """Improved integration approximation: the weights of the last velocities in every step, by least squares.

    gamma_i = argmin E|h sum_k gamma_k d_k - (fine solution from x_i - x_i)|^2,  d = v_i, v_i - v_i-1, ...
    Assumes that steps that are optimal one by one are good together; ``fixed`` fixes the weight of v_i to one.
    Source: Zhang, Niwa and Kleijn 2024, "On Accelerating Diffusion-Based Sampling via Improved Integration
    Approximation" (arXiv 2304.11328).

    >>> Improved().directions
    2
    """

    schedule: Schedule = field(default_factory=Uniform)
    directions: Count = 2  # v_i and directions - 1 of its differences to earlier velocities
    fixed: bool = True  # whether the weight of v_i is one
    fine: Count = 8  # midpoint steps of the target of a step
    ridge: NonNegative = 1e-6  # relative, for nearly collinear directions

    @torch.no_grad()
    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        nodes, f, x = self.schedule(steps).tolist(), problem.dynamics(), problem.x0
        velocities: list[Tensor] = []
        total, rows = [0.0] * steps, []
        for i, (t, s) in enumerate(zip(nodes, nodes[1:], strict=False)):
            h = s - t
            velocities.append(f(x, x.new_full((len(x),), t)))
            gain = (fine_step(f, x, t, s, self.fine) - x) / h
            back = min(self.directions, i + 1)
            parts = [velocities[i], *(velocities[i] - velocities[i - k] for k in range(1, back))]
            free = parts[1:] if self.fixed else parts
            rest = gain - velocities[i] if self.fixed else gain
            gammas = least_squares(free, rest, self.ridge)
            gammas = [1.0, *gammas] if self.fixed else gammas
            weights = [0.0] * (i + 1)
            for k, g in enumerate(gammas):
                weights[i] += g
                if k:
                    weights[i - k] -= g
            x = x + h * sum(w * v for w, v in zip(weights, velocities, strict=True))
            total = [a + h * b for a, b in zip(total, [*weights, *[0.0] * (steps - i - 1)], strict=True)]
            rows.append(tuple(total[: i + 1]))
        return Explicit(tuple(nodes)), Fitted(tuple(nodes), tuple(rows))


def least_squares(parts: Sequence[Tensor], target: Tensor, ridge: float) -> list[float]:
    """The weights of ``parts`` whose combination is nearest to ``target``, over all coordinates."""
    if not parts:
        return []
    a = torch.stack([p.flatten() for p in parts], 1).double()
    gram = a.T @ a
    gram = gram + (ridge * gram.diagonal().max() + 1e-30) * torch.eye(len(parts), dtype=torch.float64, device=a.device)
    got: list[float] = torch.linalg.solve(gram, a.T @ target.flatten().double()).tolist()
    return got


@dataclass(frozen=True)
class Searched(FitBase):
    """Differentiable solver search: times and multistep weights that follow a fine trajectory.

    h = softmax(logits),  x_i+1 = x_i + h_i (v_i + sum over j < i of C_ij (v_j - v_i));  minimise the squared distance
    of all nodes from the fine trajectory, and a Huber distance of the ends
    Assumes a field that is differentiable in state and time.
    Source: Wang et al. 2025, "Differentiable Solver Search for Fast Diffusion Sampling" (arXiv 2505.21114).

    >>> Searched(iterations=10).iterations
    10
    """

    iterations: Whole = 400  # gradient steps
    batch: Count = 256  # source points per gradient step
    lr: Positive = 0.02  # of Adam
    fine: Count = 100  # steps of the fine trajectory
    ends: NonNegative = 10.0  # weight of the end points

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        states: list[Tensor] = []
        grid = torch.linspace(0, 1, self.fine + 1, dtype=problem.x0.dtype)
        with torch.no_grad():
            integrate(problem.dynamics(), problem.x0, grid, MIDPOINT, watch=lambda x, t: states.append(x))
        trajectory = torch.stack(states, 1)  # [n,K+1,*S]
        form = Form(Uniform()(steps), 1, keep=False, consistent=True)
        optimizer = torch.optim.Adam(form.parts(), lr=self.lr)
        for i in range(self.iterations):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (1 + math.cos(math.pi * i / self.iterations)) / 2
            rows = rng.fork("rows", i).permutation(len(problem.x0))[: self.batch].to(problem.x0.device)
            part, near = problem.rows(rows), (form.times() * self.fine).round().long().tolist()
            nodes: list[Tensor] = []

            def record(x: Tensor, t: Tensor, nodes: list[Tensor] = nodes) -> None:
                nodes.append(x)

            form.solve(part.dynamics(), part.x0, watch=record)
            follow = sum((x - trajectory[rows, k]).square().mean() for x, k in zip(nodes[1:], near[1:], strict=True))
            off = nodes[-1] - part.x1
            huber = ((off.square() + 1e-6).sqrt() - 1e-3).mean()
            optimizer.zero_grad()
            (follow + self.ends * huber).backward()
            torch.nn.utils.clip_grad_norm_(form.parts(), 1.0)
            optimizer.step()
        solver = form.solver()
        return Explicit(solver.times), solver


@dataclass(frozen=True)
class Evolved(FitBase):
    """The grid with the best end points, by evolutionary search with common source points.

    children = half the times of one parent and half of another, one time moved;  the best of each generation survive
    Source: Li et al. 2023, "AutoDiffusion" (arXiv 2309.10438), its search over time steps.

    >>> Evolved(generations=2).keep
    6
    """

    solver: Solver = EULER  # on the grid
    fine: Count = 64  # times from which nodes are chosen
    population: Count = 24  # grids in a generation
    keep: Count = 6  # that survive, and are the parents
    generations: Whole = 12

    def __call__(self, problem: Problem, steps: int, rng: Rng) -> tuple[Schedule, Solver]:
        require(
            steps <= self.fine and 2 <= self.keep < self.population,
            f"{self} cannot find {steps} steps; nodes are chosen from the fine times, and at least two parents "
            "from a larger population: give fine of at least the number of steps, and 2 <= keep < population",
        )
        starts = [Uniform(), Shifted(0.5), Shifted(2.0), Shifted(3.0)]
        grids = {self._snapped(s(steps).tolist(), steps) for s in starts}
        for k in range(self.population - len(grids)):
            grids.add(self._snapped(sorted(rng.fork("first", k).uniform(steps - 1, torch.empty(0)).tolist()), steps))
        scores: dict[tuple[int, ...], float] = {}

        def score(grid: tuple[int, ...]) -> float:
            if grid not in scores:
                scores[grid] = problem.error(self._schedule(grid), self.solver, steps)
            return scores[grid]

        for g in range(self.generations):
            best = sorted(sorted(grids), key=score)[: self.keep]
            grids = set(best)
            for k in range(self.population - self.keep):
                child_rng = rng.fork("child", g, k)
                a, b = (best[i] for i in child_rng.integers(len(best), 2).tolist())
                pool = sorted(set(a[1:-1]) | set(b[1:-1]))
                pick = child_rng.fork("pick").permutation(len(pool))[: steps - 1].tolist()
                child = [pool[i] for i in pick]
                if child:
                    where, move = child_rng.fork("move").integers(len(child), 1), child_rng.fork("by").integers(9, 1)
                    child[int(where)] += int(move) - 4
                grids.add(self._snapped([c / self.fine for c in sorted(child)], steps))
        return self._schedule(min(sorted(grids), key=score)), self.solver

    def _snapped(self, times: list[float], steps: int) -> tuple[int, ...]:
        """Distinct fine times, with both ends; equal times are moved to the nearest free ones."""
        inner = [round(t * self.fine) for t in times if 0 < t < 1][: steps - 1]
        used: set[int] = set()
        for t in inner:
            free = min((abs(k - t), k) for k in range(1, self.fine) if k not in used)
            used.add(free[1])
        spare = (k for k in range(1, self.fine) if k not in used)
        while len(used) < steps - 1:
            used.add(next(spare))
        return (0, *sorted(used), self.fine)

    def _schedule(self, grid: tuple[int, ...]) -> Explicit:
        return Explicit(tuple(k / self.fine for k in grid))
