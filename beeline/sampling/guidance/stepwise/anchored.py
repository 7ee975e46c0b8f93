"""Guidance with a null condition that is tuned during the run."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Reference
from beeline.core.ranges import NonNegative, Positive, Range, Whole, dataclass
from beeline.core.types import Cond, Dynamics, expand_time, leaves, map_cond
from beeline.fields.flow import bind
from beeline.sampling.guidance.dependence import Containing, RunSteps, needs_evaluation, needs_times
from beeline.sampling.guidance.guide import Unconditional
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class AnchoredNull(Containing):
    """Classifier-free guidance whose null condition is tuned in every step towards the trajectory without guidance.

    z <- z + h v(z, t, c), from z = x at the start of the run;  v_n = weak_n + scale (strong - weak_n)
    n <- n - rate grad_n e, ``rounds`` times from the null of the step before;  e = |(z - x) / h - v_n|^2 / D;  v = v_n
    The minimum is the condition itself as null, and no guidance: few rounds and ``enough`` are part of the method.
    A step takes 3 + rounds evaluations and ``rounds`` backward passes.
    Assumes the solver EULER, and a null with floating-point leaves, as of texts; a label has nothing to tune.
    Source: Liu et al. 2024, "FlashAudio: Rectified Flows for Fast and High-Fidelity Text-to-Audio Generation" (arXiv
    2410.12266), anchored optimisation.

    >>> AnchoredNull(4.0, rounds=10).calls(0.5)
    13
    """

    scale: Annotated[float, Range(least=1)]  # 1 is no guidance; 3 to 5 is usual
    rounds: Whole = 10  # changes of the null in every step; 0 is plain guidance
    rate: Positive = 0.01  # of a change
    enough: NonNegative = 0.0  # e below which the null of a sample stays
    reference: Reference = field(default_factory=Unconditional)  # gives the first null

    def __post_init__(self) -> None:
        needs_evaluation(self.reference, "AnchoredNull")

    def for_times(self, times: Tensor) -> Guidance:
        """The guidance for a run over ``times`` [steps+1]."""
        return _OfSteps(super().for_times(times), RunSteps(times, "AnchoredNull"))

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        needs_times("AnchoredNull")

    def calls(self, t: float) -> int:
        return 3 + self.rounds


class _OfSteps:
    """The guidance for the steps of one run."""

    def __init__(self, guidance: AnchoredNull, steps: RunSteps):
        self.guidance, self.steps = guidance, steps

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field) and not isinstance(field, FieldReadout),
            f"AnchoredNull got {type(field).__name__}, which is no velocity field; it follows velocities: use "
            "CFG(scale)",
        )
        own = self.guidance
        weak_field, null = own.reference(field, cond)
        strong = bind(field, cond)
        tuned = {name: leaf.clone() for name, leaf in leaves(null) if leaf.is_floating_point()}
        require(
            bool(tuned),
            f"AnchoredNull got the null {[name or 'cond' for name, _ in leaves(null)]} of whole numbers; it tunes "
            "numbers of the condition, such as the embedding of a text: use CFG(scale)",
        )
        anchor: list[Tensor] = []
        done = -1

        def weak(x: Tensor, t: Tensor) -> Tensor:
            values = iter([tuned.get(name, leaf) for name, leaf in leaves(null)])
            return bind(weak_field, map_cond(lambda leaf: next(values), null))(x, t)

        def f(x: Tensor, t: Tensor) -> Tensor:
            nonlocal done
            step = self.steps.index(t)
            require(
                step == done + 1,
                "AnchoredNull was evaluated several times in one step, or in another order; it tunes the null once in "
                "every step: use the solver EULER",
            )
            done = step
            start, end = self.steps.around(t)
            h = expand_time(end - start, x).to(x)
            z = anchor[0] if anchor else x
            anchor[:] = [z + h * strong(z, t)]
            velocity, target = strong(x, t), (anchor[0] - x) / h
            for _ in range(own.rounds):
                self._tune(tuned, lambda: target - velocity * own.scale + (own.scale - 1) * weak(x, t))
            return velocity + (own.scale - 1) * (velocity - weak(x, t))

        return f

    def _tune(self, tuned: dict[str, Tensor], residual: Any) -> None:
        """One step of gradient descent on the mean square of ``residual()`` [B,*S] for every sample."""
        before = dict(tuned)
        with torch.enable_grad():
            for name, leaf in before.items():
                tuned[name] = leaf.detach().requires_grad_()
            error = residual().square().flatten(1).mean(1)
            slopes = torch.autograd.grad(error.sum(), list(tuned.values()), allow_unused=True)
        going = error.detach() > self.guidance.enough
        for (name, leaf), slope in zip(before.items(), slopes, strict=True):
            change = torch.zeros_like(leaf) if slope is None else self.guidance.rate * slope
            tuned[name] = leaf.detach() - torch.where(expand_time(going, leaf), change, torch.zeros_like(change))

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)
