"""Data carried from one flow to another through their common source."""

from __future__ import annotations

from torch import Tensor

from beeline.core.ranges import Share, dataclass
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.inversions import backwards
from beeline.sampling.editing.resampled import resumed
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class BetweenFlows:
    """Inverts data by one flow and samples by another: a bijection between two data distributions.

    y = sampler(then, inversion(first, x))
    With a strength below 1 both runs stop at t = 1 - strength, so that the data change less.  One flow on both sides
    gives the data back up to the round trip.
    Assumes flows with one source, and a solver without noise.

    >>> one = Flow(lambda x, t: 1 + 0 * x)
    >>> import torch
    >>> BetweenFlows()(Flow(lambda x, t: 0 * x), one, torch.zeros(1, 1), Sampler(1))
    tensor([[1.]])
    """

    strength: Share = 1.0

    def __call__(
        self,
        first: Flow,
        then: Flow,
        x: Tensor,
        sampler: Sampler,
        cond: Cond = None,
        new_cond: Cond = None,
    ) -> Tensor:
        """Data ``x`` [B,*S] of the flow ``first`` under ``cond`` -> data of the flow ``then`` under ``new_cond``."""
        if self.strength == 0:
            return x
        state = backwards(first, x, cond, sampler, 1 - self.strength)
        return resumed(sampler, then, state, new_cond)
