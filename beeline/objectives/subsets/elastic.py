"""Training of one set of weights whose parts are networks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import Objective, ObjectiveSpec, heldout_of
from beeline.core.ranges import NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import evaluate_field
from beeline.networks.transformer.layout import subnetwork
from beeline.networks.transformer.plans.elastic import transformer_in
from beeline.networks.transformer.plans.subset import Subset
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper
from beeline.objectives.subsets.draws import WHOLE, AnyPart, PartDraws


@dataclass(frozen=True)
class Elastic(ObjectiveWrapper):
    """An objective whose network is other parts of the weights in every step: fewer heads, hidden channels and visits.

    mean over the parts of a step of  own L(v_part, v) + distilled L(v_part, stop(v_whole)),  of the whole L(v_whole, v)
    L compares two velocities as the objective does.  Every part can then be used: ``networks.SubNetwork`` or
    ``bundle.subnetwork(width=0.5)``.  Costs one pass for every part, and with ``distilled`` one without gradients
    where the whole network is not among them.  The held-out loss is that of the whole network.
    Assumes a flow transformer, and with ``distilled`` the objective FlowMatching.
    Source: Cai et al. 2019, "Once for All" (arXiv 1908.09791); own=0, distilled=1 with Sandwich: Yu et al. 2020,
    "BigNAS" (arXiv 2003.11142); 1 and 1 with Listed: Zhuang et al. 2024, "Starbucks" (arXiv 2410.13230).

    >>> Elastic().distilled
    0.0
    """

    objective: Objective = field(default_factory=FlowMatching)
    draws: PartDraws = AnyPart()
    own: NonNegative = 1.0  # weight of the objective for parts; that of the whole network has one
    distilled: NonNegative = 0.0  # weight of the difference from the whole network

    def __post_init__(self) -> None:
        require(
            self.own + self.distilled > 0,
            "Elastic got own=0 and distilled=0, so that parts of the network are not trained; give one of them a "
            "weight, such as own=1",
        )

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False)

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        visits = len(transformer_in(field, "Elastic").visits)
        drawn = self.draws(visits, rng.fork("part"))
        parts = [WHOLE if part.covers(visits) else part for part in drawn]
        found = self.compared(parts, field, batch, rng) if self.distilled else self.alone(parts, field, batch, rng)
        return weighted([(share / len(parts), loss) for share, loss in found])

    def alone(self, parts: Sequence[Subset], field: Any, batch: Batch, rng: Rng) -> Weighted:
        """The losses of parts by any objective, with their weights."""
        found = []
        for part in parts:
            with subnetwork(part):
                found.append((1.0 if part == WHOLE else self.own, self.objective(field, batch, rng)))
        return found

    def compared(self, parts: Sequence[Subset], field: Any, batch: Batch, rng: Rng) -> Weighted:
        """The losses of parts by data and by the velocities of the whole network, at the same states."""
        compare, example = self.inner.compare, self.inner.examples(batch, rng, field)

        def velocity(part: Subset) -> Tensor:
            with subnetwork(part):
                return evaluate_field(field, example.x, example.t, example.batch.cond)

        with torch.set_grad_enabled(torch.is_grad_enabled() and WHOLE in parts):
            whole = velocity(WHOLE)
        near = example._replace(v=whole.detach())
        found = []
        for part in parts:
            if part == WHOLE:
                found.append((1.0, compare(whole, example)))
            else:
                v = velocity(part)
                found += [(self.own, compare(v, example)), (self.distilled, compare(v, near))]
        return found


Weighted: TypeAlias = Sequence[tuple[float, Loss]]
"""Losses with their weights."""


def weighted(found: Weighted) -> Loss:
    """The sum of losses of one batch, with the times of the first."""
    return Loss(
        sum_of([share * loss.value for share, loss in found]),
        {name: sum_of([share * loss.terms[name] for share, loss in found]) for name in found[0][1].terms},
        sum_of([share * loss.per_sample for share, loss in found]),
        found[0][1].t,
    )


def sum_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0)
