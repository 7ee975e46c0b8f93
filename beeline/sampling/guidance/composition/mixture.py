"""Sampling from the mixture of several conditions or models, by densities tracked along the run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import Divergence, Reference
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.density.likelihood import Exact
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import Linear
from beeline.sampling.guidance.dependence import Containing, needs_evaluation
from beeline.solvers.process import FieldReadout

END = 1e-3  # distance from t = 1 within which densities are no longer updated, because scores have no limit there


@dataclass(frozen=True)
class Disjunction(Containing):
    """Samples that fit one of several conditions or models: the flow of their mixture.

    v = sum_i pi_i v_i,  pi_i = weight_i p_i(x, t) / sum_j weight_j p_j(x, t)
    d log p_i = -(div v_i + v_i . s_i) dt + s_i . dx,  s_i = (t v_i - x) / (1 - t)
    v_0 is under the condition of the run, v_1 .. those of the references.  The densities are those of the members'
    own flows, equal at t = 0, and are integrated along the evaluations by the trapezoidal rule; the flow is exactly
    that of the mixture up to this rule.  Each evaluation takes a divergence of every member in addition.
    Assumes the straight path, a Gaussian source, independent couplings and runs that start at t = 0.
    Source: Skreta et al. 2024, "The Superposition of Diffusion Models Using the Ito Density Estimator" (arXiv
    2412.17762), with divergences in place of its estimator.

    >>> from beeline.sampling.guidance.guide import Weak
    >>> guidance = Disjunction((Weak(lambda x, t: 2 - x),), (1.0, 1.0))
    >>> float(guidance(lambda x, t: -2 - x, None)(torch.zeros(1, 1), torch.zeros(1)).detach())
    0.0
    """

    references: tuple[Reference, ...]  # the other members
    weights: tuple[float, ...]  # of the condition of the run and of every reference, positive; their scale is free
    divergence: Divergence = Exact()

    def __post_init__(self) -> None:
        require(
            len(self.weights) == len(self.references) + 1 and all(0 < w < math.inf for w in self.weights),
            f"Disjunction got weights={self.weights} for {len(self.references)} references; the condition of the run "
            "and every reference have one positive weight: give one more than references",
        )
        for reference in self.references:
            needs_evaluation(reference, "Disjunction")

    def for_flow(self, flow: Flow) -> Any:
        """The guidance with its parts for ``flow``; raises ValueError for a flow without a score or a straight path."""
        require(
            isinstance(flow.path, Linear),
            f"Disjunction got a flow on {type(flow.path).__name__}; its scores are those of the straight path: convert "
            "the flow with convert_flow(flow, Linear())",
        )
        flow.require_score()
        return super().for_flow(flow)

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field) and not isinstance(field, FieldReadout),
            f"Disjunction got {type(field).__name__}, which is no velocity field; it tracks densities along velocities",
        )
        pairs = [(field, cond), *(reference(field, cond) for reference in self.references)]
        members = [bind(other, c) for other, c in pairs]
        weights = [math.log(w) for w in self.weights]
        last: list[tuple[Tensor, ...]] = []

        def f(x: Tensor, t: Tensor) -> Tensor:
            made = [self.divergence(member, x, t) for member in members]
            v = torch.stack([velocity for velocity, _ in made])
            score = (expand_time(t, x) * v - x) / expand_time((1 - t).clamp(min=END), x)
            rate = -torch.stack([div for _, div in made]) - (v * score).flatten(2).sum(2)
            if last:
                require(
                    x.shape == last[0][0].shape,
                    f"Disjunction got states of shape {tuple(x.shape)} after {tuple(last[0][0].shape)}; it follows the "
                    "densities of every sample: use a solver that is not parallel in time, such as HEUN",
                )
                x_, t_, score_, rate_, log_p = last[0]
                step = (t - t_) * (rate + rate_) / 2 + ((score + score_) / 2 * (x - x_)).flatten(2).sum(2)
                log_p = torch.where(t < 1 - END, log_p + step, log_p)
            else:
                require(
                    bool((host_times(t) < 1e-6).all()),
                    "Disjunction got a run that does not start at t = 0, where alone the densities of all members are "
                    "known to be equal; start at t = 0",
                )
                log_p = torch.zeros_like(rate)
            last[:] = [(x, t, score, rate, log_p)]
            share = torch.softmax(log_p + log_p.new_tensor(weights)[:, None], 0)
            return (share.reshape(*share.shape, *[1] * (x.ndim - 1)) * v).sum(0)

        return f

    def calls(self, t: float) -> int:
        return len(self.weights)
