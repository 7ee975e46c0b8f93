"""Optimizers around another one: projections of what it changed, or of the gradients that it is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.protocols.training import Optimizer
from beeline.core.ranges import Count, Positive, Share, dataclass
from beeline.training.optim.optimizers import AdamW, OptimizerBase


@dataclass(frozen=True)
class SparseProjection(OptimizerBase):
    """Another optimizer, after which only the largest changes of every tensor stay.

    every ``every`` steps: D = w - w_start;  w <- w_start + D on the ``keep`` |w| entries with the largest |D|, else
    w_start, bit for bit
    The steps between two projections change all entries: set ``every`` to a divisor of the number of steps.  With
    ``Adaptation(Difference())`` the result is a sparse change beside an unchanged flow.  Averaged weights (EMA) have
    entries of all projections: set training.ema=none.  For weights that are not sharded.
    Source: Aggarwal et al. 2025, "Robust Learning of Diverse Code Edits" (arXiv 2503.03656), SeleKT.

    >>> w = nn.Parameter(torch.zeros(4))
    >>> stepper = SparseProjection(keep=0.5, every=1).build([w], 0.1)
    >>> w.grad = torch.tensor([1.0, 0.0, 0.0, -1.0])
    >>> stepper.step(); w.data
    tensor([-0.1000,  0.0000,  0.0000,  0.1000])
    """

    optimizer: Optimizer = field(default_factory=AdamW)
    keep: Share = 0.05  # of the entries of a tensor, at least one
    every: Count = 50  # steps

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        made = self.optimizer.build(parameters, lr, matrices)
        begun: dict[int, Tensor] = {}

        def before(stepper: Any, *_: Any) -> None:
            for p in parameters:
                if "start" not in stepper.state.get(p, {}):  # the optimizer expects no state before its first step
                    begun[id(p)] = p.detach().clone()

        @torch.no_grad()
        def after(stepper: Any, *_: Any) -> None:
            stepper.param_groups[0]["taken"] = taken = stepper.param_groups[0].get("taken", 0) + 1
            for p in parameters:
                if id(p) in begun:
                    stepper.state[p]["start"] = begun.pop(id(p))
                if taken % self.every == 0:
                    start = stepper.state[p]["start"]
                    count = max(1, round(self.keep * p.numel()))
                    kept = (p - start).abs().flatten().topk(count).indices
                    some = start.flatten().clone()
                    some[kept] = p.flatten()[kept]
                    p.copy_(some.view_as(p))

        made.register_step_pre_hook(before)
        made.register_step_post_hook(after)
        return made


@dataclass(frozen=True)
class LowRankGradients(OptimizerBase):
    """Adam on the gradients of matrices projected to few directions, so that its moments are small.

    P [out,rank] (or [rank,in] of a wide matrix) the leading singular vectors of the gradient, renewed every ``every``
    steps;  w <- w - lr scale P adam(P^T g);  other parameters by Adam
    The moments stay as they are when P is renewed: they then belong to the directions before.  For weights that are not
    sharded.
    Source: Zhao et al. 2024, "GaLore" (arXiv 2403.03507); Huang et al. 2024, "Gradient Weight-normalized Low-rank
    Projection for Efficient LLM Training" (arXiv 2412.19616), without its normalised rows.

    >>> LowRankGradients(2).build([nn.Parameter(torch.ones(8, 4))], 1e-3).param_groups[0]["rank"]
    2
    """

    rank: Count = 4
    every: Count = 200  # steps
    scale: Positive = 1.0
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", AdamW(self.betas).betas)  # checked

    def build(
        self, parameters: Sequence[nn.Parameter], lr: float, matrices: Collection[int] | None = None
    ) -> torch.optim.Optimizer:
        from beeline.training.optim.steppers import LowRankStepper

        return LowRankStepper(parameters, lr, self.rank, self.every, self.scale, self.betas)
