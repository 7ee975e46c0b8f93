"""Hierarchical rectified flow, which learns the distribution of the velocity at every state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Holding, in_place_of
from beeline.core.errors import require
from beeline.core.protocols.flows import Solver, VelocityField
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng, keys_of
from beeline.core.types import Batch, Cond, Loss
from beeline.fields.flow import Flow, bind
from beeline.objectives.heads import conditioned_on_state
from beeline.objectives.matching import FlowMatching, ObjectiveBase
from beeline.objectives.velocity_ot import VelocityOT
from beeline.solvers.integrate import integrate
from beeline.solvers.process import Process
from beeline.solvers.runge_kutta import EULER


@dataclass(frozen=True)
class Hierarchical(ObjectiveBase):
    """A flow over velocities: at every state the distribution of the velocity is learned instead of its mean.

    v1 = x1 - x0 is the datum of an inner flow from v0 ~ N(0, I), conditioned on (x_t, t);
    min E |a(v_tau, tau; x_t, t) - (v1 - v0)|^2
    Assumes a network a(y, tau, cond) that takes the conditions ``state`` (of the shape of the data) and ``time`` [B,1],
    or a RandomVelocity of one.  It is sampled with EULER: solvers that average fresh velocities within a step sample
    another distribution.  The coupling of ``outer`` pairs the data; an inner coupling across states is refused.
    Source: Zhang et al. 2025, "Towards Hierarchical Rectified Flow" (arXiv 2502.17436).

    >>> inner = lambda y, tau, cond: y * 0 + cond["time"]
    >>> Hierarchical()(inner, Batch(torch.zeros(3, 2)), Rng(0)).per_sample.shape
    torch.Size([3])
    """

    inner: FlowMatching = field(default_factory=FlowMatching)  # of the velocities at a state
    outer: FlowMatching = field(default_factory=FlowMatching)  # path, coupling and times of the states

    def __post_init__(self) -> None:
        require(
            self.inner.coupling.independent or isinstance(self.inner.coupling, VelocityOT),
            f"Hierarchical got the inner coupling {type(self.inner.coupling).__name__}; pairing velocities of "
            "different states changes their distribution at each state: use Independent(), or VelocityOT(...), which "
            "pairs within one state",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, coupling=self.outer.coupling, drop=self.outer.drop, wrap=self.wrap)

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """A network like that of the run, conditioned on state and time, as a field of random velocities."""
        return RandomVelocity(conditioned_on_state(network, "state", rng, {"time": {"size": 1}}))

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        net = field.inner if isinstance(field, RandomVelocity) else field
        example = self.outer.examples(batch, rng.fork("outer"), field)
        given: dict[str, Any] = {"state": example.x, "time": example.t[:, None]}
        if example.batch.cond is not None:
            given["cond"] = example.batch.cond
        return self.inner(net, Batch(example.v, cond=given, weight=batch.weight), rng.fork("inner"))


class RandomVelocity(Holding):
    """The velocity field of a hierarchical flow: every evaluation samples a velocity from the inner flow.

    v(x, t) = inner flow from fresh v0, conditioned on (x, t), in ``steps`` steps
    Assumes the network of Hierarchical.  Paths may cross, so there is no inverse; the numbers of evaluations multiply.
    A Sampler keys the inner noise by the bits of each x0 and by t, so that a sample depends on its x0 and not on the
    batch.
    Source: Zhang et al. 2025 (arXiv 2502.17436).

    >>> field = RandomVelocity(lambda y, tau, cond: 0 * y, Rng(0), steps=2)
    >>> field(torch.zeros(1, 2), torch.zeros(1)).shape
    torch.Size([1, 2])
    """

    parts = ("inner",)

    def __init__(
        self,
        inner: Any,  # a(y, tau, cond)
        rng: Rng = Rng(0),  # noqa: B008 - a value
        steps: int = 5,  # of the inner flow; 2 to 10
        solver: Solver = EULER,  # of the inner flow
    ):
        super().__init__()
        self.inner, self.rng, self.steps, self.solver = inner, rng, steps, solver

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"inner": self.inner, "rng": self.rng, "steps": self.steps, "solver": self.solver}

    def process(self) -> Process:
        return RandomField()

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, keys: Sequence[int] = ()) -> Tensor:
        given: dict[str, Any] = {"state": x, "time": t[:, None]}
        if cond is not None:
            given["cond"] = cond
        rng = self.rng.fork("velocity", float(t.flatten()[0]))
        v0 = rng.rows(keys, x) if keys else rng.normal(x)
        return integrate(bind(self.inner, given), v0, torch.linspace(0, 1, self.steps + 1, dtype=x.dtype), self.solver)


@dataclass(frozen=True)
class RandomField(Process):
    """An equation with random velocities: forwards with Euler steps, with noise keyed by each source point."""

    default_solver: Solver = EULER
    invertible = False

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        super().check(flow, solver, times)
        require(
            solver == EULER and bool(times[-1] > times[0]),
            f"a flow of random velocities was to be solved "
            f"{'backwards' if times[-1] <= times[0] else f'with {solver}'}; its paths cross, and averages of several "
            "sampled velocities have another distribution: sample forwards with EULER",
        )

    def field_for_run(self, field: Any, x: Tensor, times: Tensor) -> VelocityField:
        keys = keys_of(x)
        return in_place_of(field, lambda y, t, cond=None: field(y, t, cond, keys * (len(y) // len(keys))))
