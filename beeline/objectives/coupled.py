"""Augmented bridge matching: velocity fields conditioned on the source point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from torch import Tensor, nn

from beeline.core.declared import in_place_of
from beeline.core.errors import require
from beeline.core.protocols.flows import Solver, VelocityField
from beeline.core.protocols.objectives import ObjectiveSpec
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, Loss
from beeline.couplings.basic import PairedOrOT
from beeline.fields.flow import Flow, evaluate_field
from beeline.objectives.heads import Beside, conditioned_on_state
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.solvers.process import Process


class FromStart(Beside):
    """A velocity field conditioned on the source point of its path by channel concatenation.

    v(x_t, t, x0) = the first half of network([x_t, x0], t, cond)
    Assumes a network for data whose first dimension is twice as long; it is solved forwards only, from x0.
    Source: De Bortoli et al. 2023, "Augmented Bridge Matching" (arXiv 2311.06978).

    >>> import torch
    >>> FromStart(lambda x, t: x, "start")(torch.ones(1, 2), torch.zeros(1), {"start": torch.zeros(1, 2)})
    tensor([[1., 1.]])
    """

    def process(self) -> Process:
        return Started()


@dataclass(frozen=True)
class Started(Process):
    """An equation conditioned on its source point: forwards only."""

    invertible = False

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        super().check(flow, solver, times)
        require(
            bool(times[-1] > times[0]),
            "a flow conditioned on its source point was to be solved backwards, and that point is not known at the "
            "data end; train without Augmented to invert data",
        )

    def field_for_run(self, field: Any, x: Tensor, times: Tensor) -> VelocityField:
        def velocity(y: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            v: Tensor = field(y, t, with_start(cond, x.repeat(len(y) // len(x), *[1] * (y.ndim - 1))))
            return v

        return in_place_of(field, velocity)


@dataclass(frozen=True)
class Augmented(ObjectiveWrapper):
    """Flow matching between pairs with the source point as a condition, which preserves the pairs where paths cross.

    E weight(t) distance(v(x_t, t, x0), v_t);  its minimum is E[v_t | x_t, x0], for x1 = f(x0) the chord itself
    Assumes paired data (PairedOrOT pairs others by optimal transport) and a FromStart field.  On a path without noise
    every x0 has one x1: the mean of several partners.
    Source: De Bortoli et al. 2023, "Augmented Bridge Matching" (arXiv 2311.06978).

    >>> import torch
    >>> loss = Augmented()(lambda x, t, cond: 2 - cond["start"], Batch(torch.ones(4, 2), torch.zeros(4, 2)), Rng(0))
    >>> loss.value
    tensor(1.)
    """

    objective: FlowMatching = field(default_factory=lambda: FlowMatching(coupling=PairedOrOT()))

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, wrap=self.wrap, baselines=False)  # baselines take no source point

    def wrap(self, network: Any, batch: Batch, rng: Rng) -> nn.Module:
        """A network like that of the run, conditioned on the source point."""
        network = conditioned_on_state(network, "start", rng)
        return FromStart(network.network, network.name)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        example = self.inner.examples(batch, rng, field)
        assert example.batch.x0 is not None
        predicted = evaluate_field(field, example.x, example.t, with_start(example.batch.cond, example.batch.x0))
        return self.inner.compare(predicted, example)


def with_start(cond: Cond, x0: Tensor) -> Cond:
    """The conditions with the source points added."""
    if cond is None:
        return {"start": x0}
    return {**cond, "start": x0} if isinstance(cond, Mapping) else {"cond": cond, "start": x0}
