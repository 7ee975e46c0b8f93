"""Training of one set of weights whose parts are networks of their own."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

import torch

from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.objectives import Objective, ObjectiveSpec, heldout_of
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.networks.transformer.layout import subnetwork
from beeline.networks.transformer.plans.elastic import transformer_in
from beeline.networks.transformer.plans.subset import Portion, Subset
from beeline.objectives.matching import FlowMatching, ObjectiveWrapper


@dataclass(frozen=True)
class Elastic(ObjectiveWrapper):
    """An objective whose network is another part of the weights in every step: fewer heads, hidden channels and visits.

    width ~ U(least_width, 1),  every visit but the first and the last is left out with probability u ~ U(0, 1 -
    least_depth);  with probability ``whole`` the step trains the whole network
    Every part can then be used: ``networks.SubNetwork`` or ``bundle.subnetwork(width=0.5)``.  Costs one pass.  The
    held-out loss is that of the whole network.
    Assumes a flow transformer.
    Source: Cai et al. 2019, "Once for All" (arXiv 1908.09791); Yu et al. 2018 (arXiv 1812.08928).

    >>> Elastic().least_width
    0.25
    """

    objective: Objective = field(default_factory=FlowMatching)
    least_width: Portion = 0.25  # share of the heads and hidden channels
    least_depth: Share = 0.5  # expected share of the visits in between
    whole: Share = 0.25  # of a step with the whole network

    @property
    def spec(self) -> ObjectiveSpec:
        return replace(super().spec, baselines=False)

    def heldout(self, times: TimeSampler) -> Any:
        return heldout_of(self.objective, times)

    def __call__(self, field: Any, batch: Batch, rng: Rng) -> Loss:
        subset = self.drawn(len(transformer_in(field, "Elastic").visits), rng.fork("part"))
        with subnetwork(subset):
            return self.objective(field, batch, rng)

    def drawn(self, visits: int, rng: Rng) -> Subset:
        """The part of a step, for a network that makes a number of visits."""
        chance, width, depth, *own = (float(u) for u in rng.uniform(3 + visits, torch.empty(0)))
        if chance < self.whole:
            return Subset()
        left_out = depth * (1 - self.least_depth)
        kept = [k for k, u in enumerate(own) if k in (0, visits - 1) or u >= left_out]
        return Subset(self.least_width + width * (1 - self.least_width), tuple(kept))
