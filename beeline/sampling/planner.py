"""Planning: a flow of trajectories and an inverse dynamics model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import MIDPOINT


@dataclass(frozen=True)
class Planner:
    """Actions from plans: a guided flow of states that starts at the present one, and the action of its first step.

    x = (s_0, ..., s_H) ~ flow(x0, return), with s_0 fixed;  x0 ~ N(0, spread^2);  action = inverse(s_0, s_1)
    Assumes a flow on trajectories [B,H+1,*O] with a time for every state, trained with the times ``Continued``, and a
    model of the inverse dynamics, trained with the objective Regression.
    Source: Zheng et al. 2023, "Guided Flows for Generative Modeling and Decision Making" (arXiv 2311.13443); inverse
    dynamics: Ajay et al. 2022 (arXiv 2211.15657).

    >>> plans = Flow(lambda x, t: x[:, :1] - x)
    >>> planner = Planner(plans, lambda pair: pair[:, 1] - pair[:, 0], 3)
    >>> planner.plan(torch.ones(2, 1), None, Rng(0))[:, 0].flatten()
    tensor([1., 1.])
    """

    flow: Flow
    inverse: Callable[[Tensor], Tensor]  # two successive states [B,2,*O] -> action [B,*A]
    states: Annotated[int, Range(least=2)]  # of a plan, with the present one
    sampler: Sampler = field(default_factory=lambda: Sampler(5, solver=MIDPOINT))  # with CFG(1.2) to guide
    spread: Annotated[float, Range(least=0.0)] = 0.5  # standard deviation of the source; below 1 for likelier plans

    def plan(self, state: Tensor, wanted: Cond, rng: Rng) -> Tensor:
        """States [B,states,*O] from the present ones [B,*O] on, for conditions such as {"return": [B,1]}."""
        require(
            state.ndim >= 2,
            f"Planner got a state of shape {tuple(state.shape)}; it plans for a batch of states: pass [B,*O]",
        )
        noise = self.spread * rng.normal(state.new_empty(len(state), self.states - 1, *state.shape[1:]))
        guidance = GivenFrames((0,), self.sampler.guidance)
        return replace(self.sampler, guidance=guidance)(self.flow, torch.cat([state[:, None], noise], 1), wanted)

    def act(self, state: Tensor, wanted: Cond, rng: Rng) -> Tensor:
        """The actions [B,*A] of the first steps of plans from the present states [B,*O]."""
        with torch.no_grad():
            return self.inverse(self.plan(state, wanted, rng)[:, :2])
