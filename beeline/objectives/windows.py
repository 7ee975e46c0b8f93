"""Distillation objectives: straightening in windows of time, and flow-guided distillation."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time
from beeline.couplings.basic import Independent
from beeline.couplings.sources import Gaussian
from beeline.fields.flow import Flow, evaluate_field
from beeline.objectives.alignment import with_term
from beeline.objectives.matching import Example, FlowMatching, ObjectiveWrapper
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import HEUN
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class Windowed(ObjectiveWrapper):
    """Piecewise rectified flow: each window of time starts at a noised datum and ends where the teacher's flow does.

    window k:  z0 = x_{t_k} of a data pair,  z1 = the (guided) teacher's flow from t_k to t_{k+1};
    the ends x0*, x1* of the path of ``objective`` that goes through z0 at t_k and z1 at t_{k+1};
    regress the slope of that path at t_k + u (t_{k+1} - t_k), which is (z1 - z0) / (t_{k+1} - t_k) where it is straight
    Assumes a trained teacher; one window is reflow.  Costs ``steps`` steps of the teacher per training step.  Sample
    with steps that end at the edges, on a curved path by DDIM.
    Source: Yan et al. 2024, PeRFlow (arXiv 2405.07510); curved paths: Wang et al. 2024, "Rectified Diffusion" (arXiv
    2410.07303), phased; edges by a fit such as Bellman, and times at the edges alone: Nguyen et al. 2024, "Bellman
    Optimal Stepsize Straightening of Flow-Matching Models" (arXiv 2312.16414).

    >>> Windowed(Flow(lambda x, t: -x), 2)(lambda x, t: -x, Batch(torch.zeros(4, 1)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    teacher: Flow
    windows: int = 4  # parts of [0, 1]; 1 is reflow
    steps: int = 4  # of the teacher inside a window
    solver: Solver = HEUN
    objective: FlowMatching = field(default_factory=FlowMatching)  # its times are positions inside a window
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    schedule: Schedule = field(default_factory=Uniform)  # the edges of the windows

    def __post_init__(self) -> None:
        require(
            self.windows >= 1 and self.steps >= 1,
            f"Windowed got windows={self.windows}, steps={self.steps}; both are counts: give at least one of each",
        )
        require(
            isinstance(self.inner.path, AffinePath),
            f"Windowed got an objective on {type(self.inner.path).__name__}; the two states of a window determine the "
            "ends of an affine path only: use Linear(), or the affine path of the teacher",
        )
        require(
            isinstance(self.inner.coupling, Independent),
            f"Windowed got an objective with {type(self.inner.coupling).__name__}; windows start from noised data, "
            "which the teacher was trained on: use Independent()",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.examples(batch, rng, field)
        return self.inner.compare(evaluate_field(field, example.x, example.t, example.batch.cond), example)

    def examples(self, batch: Batch, rng: Rng, field: Any = None) -> Example:
        """One window for every datum, and a state inside it."""
        batch = self.objective.pairs(batch, rng, field)
        x1 = batch.x1
        assert batch.x0 is not None
        edges = self.schedule(self.windows)
        k = rng.fork("window").integers(self.windows, len(x1)).to(edges.device)
        start, length = (part.to(x1.device, x1.dtype) for part in (edges[k], edges.diff()[k]))
        u = self.objective.times(len(x1), x1, rng.fork("times"))
        with eval_mode(self.teacher.field, self.guidance):
            z0 = self.teacher.path.point(batch.x0, x1, start, rng.fork("path")).x
            grid = start + length * torch.linspace(0, 1, self.steps + 1, dtype=x1.dtype)[:, None].to(x1.device)
            grid = grid.clamp(max=1)
            guided = guidance_for_flow(self.guidance, self.teacher)(self.teacher.field, batch.cond)
            z1 = integrate(guided, z0, grid, self.solver).to(x1.dtype)
            ends = through(self.inner.path, z0, z1, grid[0], grid[-1])
        t = start + length * u
        return Example(batch, t, *self.inner.path.point(*ends, t))


def through(path: Any, first: Tensor, last: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The ends (x0, x1) of the affine path that goes through ``first`` at ``t`` and ``last`` at ``s``, times [B]."""
    a, b, c, d = (expand_time(curve(when), first) for when in (t, s) for curve in (path.a, path.b))
    size = b * c - a * d
    return (c * first - a * last) / size, (b * last - d * first) / size


@dataclass(frozen=True)
class TwoHops(ObjectiveWrapper):
    """Flow-guided distillation: a one-step student of pairs that also matches two teacher steps from fresh noise.

    loss on pairs + strength distance(e + S(e, 0), m + (1-t) v(m, t)),  m = e + t v(e, 0),  e ~ N(0, I),  t ~ U(between)
    Assumes a teacher with nearly straight trajectories, on the straight path, from a Gaussian.
    Source: Zhu et al. 2024, SlimFlow (arXiv 2407.12718), flow-guided distillation.

    >>> TwoHops(Flow(None)).between
    (0.2, 0.8)
    """

    teacher: Flow
    objective: FlowMatching = field(default_factory=FlowMatching)  # of the pairs
    strength: NonNegative = 1.0  # of the two steps
    between: tuple[float, float] = (0.2, 0.8)  # times of the second step

    def __post_init__(self) -> None:
        require(
            isinstance(self.teacher.path, Linear) and isinstance(self.teacher.source, Gaussian),
            f"TwoHops got a teacher on {self.teacher.path} from {self.teacher.source}; its two steps need the straight "
            "path from Gaussian noise: convert the teacher with convert_flow(flow, Linear())",
        )

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        loss, n = self.inner(field, batch, rng), len(batch.x1)
        noise, low, high = rng.fork("fresh").normal(batch.x1), *self.between
        zero, t = batch.x1.new_zeros(n), low + (high - low) * rng.fork("hop").uniform(n, batch.x1)
        with eval_mode(self.teacher.field), torch.no_grad():
            middle = noise + expand_time(t, noise) * evaluate_field(self.teacher.field, noise, zero, batch.cond)
            target = middle + expand_time(1 - t, noise) * evaluate_field(self.teacher.field, middle, t, batch.cond)
        predicted = noise + evaluate_field(field, noise, zero, batch.cond)
        return with_term(loss, self.inner.distance(predicted, target).mean(), self.strength, "two hops")
