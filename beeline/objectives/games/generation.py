"""How the student of a score game makes its samples, and where these are noised."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.progress import common
from beeline.core.protocols.flows import Schedule, Solver, Source, TimeSampler
from beeline.core.protocols.games import Generated, Noised
from beeline.core.ranges import Count, Edge, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, expand_time
from beeline.fields.flow import Flow, bind, is_map
from beeline.paths.affine import AffinePath, Linear
from beeline.paths.part import PartOfPath
from beeline.sampling.frame_by_frame import FrameByFrame
from beeline.sampling.sampler import Sampler
from beeline.solvers.multistep import DPMSolver
from beeline.solvers.process import process_of
from beeline.solvers.runge_kutta import EULER, FlowMapStep
from beeline.times.samplers import Uniform as Anywhere
from beeline.times.schedules import Uniform


def affine(teacher: Flow) -> AffinePath:
    """The affine path of a teacher."""
    require(
        isinstance(teacher.path, AffinePath) and teacher.source.gaussian,
        f"a score game got a teacher on {teacher.path} from {teacher.source}; it compares scores, which a velocity "
        "determines on an affine path from Gaussian noise only: use Reflow or OneStep, or another teacher",
    )
    assert isinstance(teacher.path, AffinePath)
    return teacher.path


def start_of(teacher: Flow, batch: Batch, rng: Rng) -> Tensor:
    """Source points [B,*S] for the data of a batch."""
    return teacher.source.sample(batch.x1, rng.fork("source"))


def step(field: Any, path: AffinePath, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """The state at ``s`` by one evaluation, and the datum that it implies; a flow map jumps to ``s`` itself."""
    if is_map(field):
        made = x + expand_time(s - t, x) * bind(field, cond)(x, t, s=s)
        return made, made
    noise, data = path.ends(x, bind(field, cond)(x, t), t)
    a, b = (expand_time(c, x) for c in path.coefficients(s)[:2])
    return a * data + b * noise, data


def step_solver(teacher: Flow) -> Solver:
    """The solver of ``step``: Euler on the straight path, DDIM on others, FlowMapStep for a map."""
    if is_map(teacher.field):
        return FlowMapStep()
    return EULER if isinstance(teacher.path, Linear) else DPMSolver(1, affine(teacher))


class OnGrid:
    """Base of generations by the steps of a sampler; a subclass has the fields ``steps`` and ``schedule``."""

    steps: int
    schedule: Schedule

    def sampler(self, teacher: Flow) -> Sampler:
        """The sampler of the student."""
        solver = process_of(teacher).adapt_solver(step_solver(teacher))
        return Sampler(self.steps, schedule=self.schedule, solver=solver)

    def grid(self, like: Tensor) -> Tensor:
        """The times [steps+1] of the steps."""
        return self.schedule(self.steps).to(like.device, like.dtype)


@dataclass(frozen=True)
class OneJump(OnGrid):
    """Samples of a student by one evaluation, from noise to data.

    x = z + v(z, 0),  z ~ source;  on a curved path the datum that the velocity at t = 0 implies

    >>> OneJump().sampler(Flow(None)).evaluations
    1
    """

    steps = 1
    schedule = Uniform()

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        z = start_of(teacher, batch, rng)
        t, path = z.new_zeros(len(z)), affine(teacher)
        s = torch.ones_like(t)
        made = step(field, path, z, t, s, batch.cond)[0]
        return Generated(made, z, t, s, path)


@dataclass(frozen=True)
class FromNoisedData(OnGrid):
    """Samples of a student by one evaluation from a noised datum, at a time of its grid or at random times.

    x = D(x_t),  x_t of a real datum,  t a time of the grid, or from ``times``;  t = 0 for a share ``pure``
    Source: Yin et al. 2024, DMD2 (arXiv 2405.14867), the inputs that backward simulation replaces; Sauer et al. 2024,
    LADD (arXiv 2403.12015).

    >>> FromNoisedData(4).sampler(Flow(None)).evaluations
    4
    """

    steps: Count = 4  # of the sampler
    schedule: Schedule = field(default_factory=Uniform)
    times: TimeSampler | None = None  # in place of the times of the grid
    pure: Share = 0.0  # share of samples from noise alone, beside those that the times give

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        z, path = start_of(teacher, batch, rng), affine(teacher)
        grid, j = self.grid(z), rng.fork("step").integers(self.steps, len(z)).to(z.device)
        t, s = grid[j], grid[j + 1]
        if self.times is not None:
            t, s = self.times(len(z), z, rng.fork("times")).clamp(max=0.999), torch.ones_like(s)
        alone = rng.fork("pure").uniform(len(z), z) < self.pure
        t, s = torch.where(alone, torch.zeros_like(t), t), torch.where(alone, grid[1], s)
        x = path.point(z, batch.x1.to(z.dtype), t).x
        data = step(field, path, x, t, torch.ones_like(s) if is_map(field) else s, batch.cond)[1]
        return Generated(data, x, t, s, path)


@dataclass(frozen=True)
class BackwardSimulation(OnGrid):
    """Samples of a student by its own steps to a time of its grid without a graph, and one evaluation with one.

    x = D(x_t),  x_t by the student's steps from noise,  t a time of the grid;  one step is OneJump
    The states are those of sampling, so that training and use agree, and no data are needed.
    Source: Yin et al. 2024, DMD2 (arXiv 2405.14867).

    >>> BackwardSimulation(4).sampler(Flow(None)).evaluations
    4
    """

    steps: Count = 4  # of the sampler
    schedule: Schedule = field(default_factory=Uniform)
    part: tuple[float, float] = (0.0, 1.0)  # of the grid: the steps whose starts lie in this interval are trained

    def __post_init__(self) -> None:
        starts = self.schedule(self.steps)[:-1]
        require(
            bool(((starts >= self.part[0]) & (starts < self.part[1])).any()),
            f"{type(self).__name__} got part={self.part} and steps that start at {starts.tolist()}; none of them is in "
            "it: give an interval with one of these times, its end not included",
        )

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        z, path = start_of(teacher, batch, rng), affine(teacher)
        starts = self.schedule(self.steps)[:-1]
        chosen = ((starts >= self.part[0]) & (starts < self.part[1])).nonzero().flatten()
        grid, j = self.grid(z), chosen[rng.fork("step").integers(len(chosen), len(z))].to(z.device)
        x, t, s = self.simulated(field, path, z, grid, j, batch.cond)
        data = step(field, path, x, t, torch.ones_like(s) if is_map(field) else s, batch.cond)[1]
        return Generated(data, x, t, s, path)

    def simulated(
        self, field: Any, path: AffinePath, z: Tensor, grid: Tensor, j: Tensor, cond: Cond
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The states after the steps ``j`` [B], their times and the next times, without a graph."""
        chosen, x = z, z
        with eval_mode(field):
            for k in range(1, self.steps):
                t, s = (grid[i].expand(len(z)) for i in (k - 1, k))
                x = step(field, path, x, t, s, cond)[0]
                chosen = torch.where(expand_time(j == k, x), x, chosen)
        return chosen, grid[j], grid[j + 1]


@dataclass(frozen=True)
class Phases(BackwardSimulation):
    """Samples at the end of one step of the grid, on the part of the path that leads there.

    x_s by the student's step from t to s of its grid;  noised on x_r = (r/s) x_s + b(r) e, r < s, whose mean velocity
    is that of the teacher
    Every step is a phase, in which the student has to reach the distribution at its end only.
    Source: Fan et al. 2025, "Phased DMD" (arXiv 2510.27684).

    >>> Phases(2).sampler(Flow(None)).evaluations
    2
    """

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        z, path = start_of(teacher, batch, rng), affine(teacher)
        require(
            isinstance(path, Linear),
            f"Phases got a teacher on {path}; the path to an earlier end is known for the straight path: convert the "
            "teacher with convert_flow(flow, Linear())",
        )
        edges = self.schedule(self.steps)
        phase = int(rng.fork("phase").integers(self.steps, 1))  # on the CPU, as all of these integers are
        j = torch.full((len(z),), phase, device=z.device)
        x, t, s = self.simulated(field, path, z, self.grid(z), j, batch.cond)
        made = step(field, path, x, t, s, batch.cond)[0]
        end = float(edges[phase + 1])
        return Generated(made, x, t, s, path if phase == self.steps - 1 else PartOfPath(end), end)


@dataclass(frozen=True)
class MapRollout(OnGrid):
    """Samples of a flow map by at most three of its jumps, with gradients through all of them.

    x = X_{g+1 -> 1}(X_{g -> g+1}(X_{0 -> g}(z))) for a step g of a grid of N steps, N from 1 to ``most``
    Source: Gu et al. 2026, AnyFlow (arXiv 2605.13724).

    >>> MapRollout(4).sampler(Flow(lambda x, t: x)).evaluations
    1
    """

    most: Count = 8  # steps of the grids that are drawn
    steps: Count = 1  # of the sampler
    schedule: Schedule = field(default_factory=Uniform)

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        require(
            is_map(field),
            f"MapRollout got a {type(field).__name__}, which is no flow map; its jumps have any length: start from a "
            "student of a flow-map method",
        )
        z, path = start_of(teacher, batch, rng), affine(teacher)
        key = common(rng)  # the number of jumps is the same on all processes
        steps = 1 + int(key.fork("steps").integers(self.most, 1))
        g = int(key.fork("step").integers(steps, 1))
        edges = self.schedule(steps).tolist()
        stops = sorted({0.0, edges[g], edges[g + 1], 1.0})
        x = before = z
        for low, high in zip(stops, stops[1:], strict=False):
            before, t, s = x, z.new_full((len(z),), low), z.new_full((len(z),), high)
            x = step(field, path, x, t, s, batch.cond)[0]
        return Generated(x, before.detach(), t, s, path)

    def sampler(self, teacher: Flow) -> Sampler:
        return Sampler(self.steps, schedule=self.schedule, solver=FlowMapStep())


@dataclass(frozen=True)
class CausalRollout(OnGrid):
    """Samples of sequences by the student's own rollout: every group of frames given its own samples before it.

    group g:  steps of the grid without a graph up to a random one, and one evaluation with a graph, which gives x_g;
    the frames before it are the student's samples at t = 1, without a graph, and those after it noise at t = 0
    Assumes data [B,F,*S] and a network with a time for every frame.  The exit step is drawn for every group,
    and is the same on all processes.
    Source: Huang et al. 2025, "Self Forcing" (arXiv 2506.08009), without a cache.

    >>> CausalRollout(2).sampler(Flow(None)).group
    1
    """

    steps: Count = 4  # of a group
    group: Count = 1  # frames that are made together
    schedule: Schedule = field(default_factory=Uniform)

    def __call__(self, field: Any, teacher: Flow, batch: Batch, rng: Rng) -> Generated:
        z, path = start_of(teacher, batch, rng), affine(teacher)
        require(
            z.ndim >= 3,
            f"CausalRollout got data of shape {tuple(z.shape)}; it makes frames, the second dimension: use "
            "BackwardSimulation for single data",
        )
        edges, made = self.schedule(self.steps).tolist(), z
        frames = torch.arange(z.shape[1], device=z.device)
        ends: list[Tensor] = []
        for low in range(0, z.shape[1], self.group):
            exit_step = int(common(rng).fork("exit", low).integers(self.steps, 1))  # on the CPU
            mine, before = (frames >= low) & (frames < low + self.group), frames < low
            own = expand_time(mine.expand(z.shape[:2]), z)
            for k in range(exit_step + 1):
                t, s = (torch.where(mine, e, before.to(z.dtype)).expand(z.shape[:2]) for e in (edges[k], edges[k + 1]))
                with torch.set_grad_enabled(torch.is_grad_enabled() and k == exit_step):
                    noise, data = path.ends(made, bind(field, batch.cond)(made, t), t)
                if k < exit_step:
                    a, b = (expand_time(c, z) for c in path.coefficients(s)[:2])
                    made = torch.where(own, a * data + b * noise, made)
            ends.append(torch.where(own, data, torch.zeros_like(data)))
            made = torch.where(own, data.detach(), made)
        last = z.new_full((len(z),), edges[-2])
        return Generated(torch.stack(ends).sum(0), made, last, torch.ones_like(last), path)

    def sampler(self, teacher: Flow) -> Sampler:
        return FrameByFrame(self.steps, self.schedule, step_solver(teacher), group=self.group)


# where samples are noised


@dataclass(frozen=True)
class Fresh:
    """Samples of the student with fresh noise, at random times.

    x_t = a(t) x + b(t) e,  e ~ source,  t = edge + (1 - 2 edge) u,  u ~ times
    Source: Yin et al. 2024 (arXiv 2311.18828), edge = 0.02.

    >>> Fresh().edge
    0.02
    """

    times: TimeSampler = field(default_factory=Anywhere)
    edge: Edge = 0.02  # least distance of t from both ends

    def __call__(self, made: Generated, source: Source, rng: Rng) -> Noised:
        like = made.x1.detach()
        t = made.end * (self.edge + (1 - 2 * self.edge) * self.times(len(like), like, rng.fork("times")))
        x, v = made.path.point(source.sample(like, rng.fork("noise")), made.x1, t)
        return Noised(x, t, v)


@dataclass(frozen=True)
class SharedTimes:
    """States of the student's own trajectory, at the times of its grid; fresh noise after the last step.

    x_s = the state after the step from t to s,  v = (x_s - x_t) / (s - t) as implied;  as Fresh where s = 1
    The fake network is trained at the same states, without which the student collapses.
    Source: SD3.5-Flash (arXiv 2509.21318), timestep sharing.

    >>> SharedTimes().last.edge
    0.02
    """

    last: Fresh = field(default_factory=Fresh)  # after the last step

    def __call__(self, made: Generated, source: Source, rng: Rng) -> Noised:
        fresh, path = self.last(made, source, rng), made.path
        a, b, _, _ = (expand_time(c, made.x) for c in path.coefficients(made.t))
        noise = ((made.x - a * made.x1) / b.clamp(min=1e-3)).detach()  # of the student's evaluation
        inner = made.s < 1 - self.last.edge / 2
        s = torch.where(inner, made.s, torch.full_like(made.s, 0.5))
        x, v = path.point(noise, made.x1, s)
        inside = expand_time(inner, x)
        return Noised(torch.where(inside, x, fresh.x), torch.where(inner, s, fresh.t), torch.where(inside, v, fresh.v))


def with_steps(generation: Any, steps: int) -> Any:
    """A generation with another number of steps."""
    return replace(generation, steps=steps)
