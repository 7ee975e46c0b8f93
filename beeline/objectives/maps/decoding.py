"""Parallel decoding distillation: one evaluation gives the velocities of several steps of the teacher."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Guidance, Schedule, Solver
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss, expand_time
from beeline.fields.flow import Flow
from beeline.networks.maps.head_bank import head_mixture
from beeline.objectives.losses.basic import Distance, squared
from beeline.objectives.matching import FlowMatching, ObjectiveBase
from beeline.sampling.guidance.guide import Plain, guidance_for_flow
from beeline.solvers.integrate import integrate
from beeline.solvers.runge_kutta import MIDPOINT
from beeline.times.schedules import Uniform


@dataclass(frozen=True)
class DecodingMatching(ObjectiveBase):
    """Regression of the heads of a HeadBank on the steps of a teacher, each at the state that the heads before give.

    x at a block start t_n,  x_k = x + sg sum of (t_(i+1) - t_i) w(x, t_n, i) over n <= i < k
    E |w(x, t_n, k) - Phi_k(x_k)|^2,  Phi_k = average velocity of the teacher over [t_k, t_(k+1)] by one solver step
    Blocks: the number of evaluations is drawn from the divisors of ``most``, then a block, then an interval in it.
    At its minimum a student in any of these numbers of evaluations is the teacher in ``intervals`` steps.
    States at block starts are points of the path of the data or, with ``data_free``, the student's own samples, which
    takes ``most`` - 1 more evaluations without gradient.
    Costs one evaluation of the student and one step of the teacher.
    Source: NVIDIA 2026, parallel decoding distillation (arXiv 2607.26004).

    >>> from beeline.networks.maps.head_bank import HeadBank
    >>> from beeline.networks.mlp import MLP
    >>> from beeline.fields.flow import Network
    >>> objective = DecodingMatching(Flow(lambda x, t, cond=None: -x), intervals=8)
    >>> bank = HeadBank(Network(MLP(2)), intervals=8)
    >>> objective(bank, Batch(torch.zeros(4, 2)), Rng(0)).per_sample.shape
    torch.Size([4])
    """

    teacher: Flow
    intervals: Count = 32  # steps of the teacher from noise to data, one head for each
    most: Count = 1  # largest number of evaluations that is trained; a divisor of intervals
    schedule: Schedule = field(default_factory=Uniform)  # the grid; it has to be that of the heads
    solver: Solver = MIDPOINT  # of the teacher in an interval; EULER costs half of it
    guidance: Guidance = field(default_factory=Plain)  # of the teacher, which the student learns with its flow
    data_free: bool = False
    distance: Distance = squared

    def __post_init__(self) -> None:
        require(
            self.intervals % self.most == 0,
            f"DecodingMatching got intervals={self.intervals}, most={self.most}; blocks have equal numbers of "
            "intervals: give a divisor of the intervals",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, path=self.teacher.path, baselines=False)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        inner = FlowMatching(self.teacher.path, distance=self.distance)
        batch = inner.pairs(batch, rng, field)
        grid = self.schedule(self.intervals).double().to(batch.x1.device)
        counts, block, k = self._draw(len(batch.x1), rng, batch.x1.device)
        start, left, right = (grid[i].to(batch.x1.dtype) for i in (block * self.intervals // counts, k, k + 1))
        x = self._states(field, batch, counts, start, grid, rng)
        mixtures = torch.stack([head_mixture(grid, start, left), head_mixture(grid, left, right)])
        before, predicted = field(x, start, batch.cond, mixtures=mixtures)
        x = x + expand_time(left - start, x) * before.detach()
        with eval_mode(self.teacher.field, self.guidance):
            guided = guidance_for_flow(self.guidance, self.teacher)(self.teacher.field, batch.cond)
            end = integrate(guided, x, torch.stack([left, right]), self.solver)
            target = (end - x) / expand_time(right - left, x)
        return inner.reduce(predicted, target.to(predicted.dtype), left, batch)

    def _draw(self, n: int, rng: Rng, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of evaluations, blocks and intervals [n] of a microbatch."""
        divisors = torch.tensor([c for c in range(1, self.most + 1) if self.most % c == 0], device=device)
        counts = divisors[rng.fork("counts").integers(len(divisors), n).to(device)]
        like = torch.empty(0, dtype=torch.float64, device=device)
        block = (rng.fork("block").uniform(n, like) * counts).long().minimum(counts - 1)
        length = self.intervals // counts
        k = block * length + (rng.fork("interval").uniform(n, like) * length).long().minimum(length - 1)
        return counts, block, k

    def _states(self, field: Any, batch: Batch, counts: Tensor, start: Tensor, grid: Tensor, rng: Rng) -> Tensor:
        assert batch.x0 is not None
        if not self.data_free:
            return self.teacher.path.point(batch.x0, batch.x1, start, rng.fork("path")).x
        x, t = batch.x0, torch.zeros_like(start)
        with torch.no_grad():
            for j in range(1, self.most):  # the same number of evaluations in every process
                s = grid[(j * self.intervals // counts).clamp(max=self.intervals)].to(start).minimum(start)
                x = x + expand_time(s - t, x) * field(x, t, batch.cond, mixtures=head_mixture(grid, t, s)[None])[0]
                t = s
        return x
