"""Filters of generated pairs: which of a shard's pairs are kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.steering import Energy
from beeline.core.protocols.training import PairFilter
from beeline.core.ranges import Share, dataclass
from beeline.core.types import Batch


@dataclass(frozen=True)
class Nearest(PairFilter):
    """The share of pairs whose ends are nearest to each other.

    the floor(share B) pairs with the smallest |x1 - x0|^2 of every shard
    Pairs with long trajectories are the worst of a teacher.  The distribution of the kept ends is another one.

    >>> Nearest(0.5)(Batch(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    tensor([ True, False])
    """

    share: Share = 0.9  # of the pairs, 0 to 1

    def __call__(self, pairs: Batch) -> Tensor:
        assert pairs.x0 is not None
        return lowest((pairs.x1 - pairs.x0).double().flatten(1).square().sum(1), self.share)


@dataclass(frozen=True)
class LowestEnergy(PairFilter):
    """The share of pairs whose data have the lowest energies; a reward is minus an energy.

    the floor(share B) pairs with the smallest energy(x1, 1, cond) of every shard

    >>> LowestEnergy(lambda x, t, cond: -x[:, 0], 0.5)(Batch(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    tensor([False,  True])
    """

    energy: Energy  # such as Near((0.5, 1.0))
    share: Share = 0.5  # of the pairs, 0 to 1

    def __call__(self, pairs: Batch) -> Tensor:
        with eval_mode(self.energy):
            return lowest(self.energy(pairs.x1, pairs.x1.new_ones(len(pairs.x1)), pairs.cond), self.share)


def lowest(values: Tensor, share: float) -> Tensor:
    """[B] bool: the floor(share B) rows with the lowest values, of equal ones the first."""
    values = values.double()
    require(
        bool(torch.isfinite(values).all()),
        "a filter got values that are not finite, by which pairs cannot be ordered; check the energy and the teacher",
    )
    kept = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    kept[values.argsort(stable=True)[: math.floor(share * len(values) + 1e-9)]] = True
    return kept
