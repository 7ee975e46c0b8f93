"""Filters of generated pairs: which of a shard's pairs are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.ranges import Share, dataclass
from beeline.core.types import Batch, leaves


@runtime_checkable
class PairFilter(Protocol):
    """Chooses pairs: a batch with x0, x1 and conditions -> [B] bool, True for the pairs that are kept."""

    def __call__(self, pairs: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Nearest:
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
class LowestEnergy:
    """The share of pairs with the lowest energies of their data: a reward is minus an energy.

    the floor(share B) pairs with the smallest energy(x1) of every shard

    >>> LowestEnergy(lambda x: -x[:, 0], 0.5)(Batch(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
    tensor([False,  True])
    """

    energy: Callable[[Tensor], Tensor]  # encoded data [B,*S] -> [B], such as Near((0.5, 1.0))
    share: Share = 0.5  # of the pairs, 0 to 1

    def __call__(self, pairs: Batch) -> Tensor:
        with torch.no_grad():
            return lowest(self.energy(pairs.x1).double(), self.share)


@dataclass(frozen=True)
class Agreeing:
    """The pairs whose datum a classifier gives the label of their condition.

    argmax classifier(x1) = cond[name]
    Assumes logits [B,classes] of encoded data.

    >>> same = Agreeing(lambda x: torch.cat([-x, x], 1))
    >>> same(Batch(torch.tensor([[1.0], [-3.0]]), cond={"label": torch.tensor([1, 1])}))
    tensor([ True, False])
    """

    classifier: Callable[[Tensor], Tensor]
    name: str = "label"  # of the condition

    def __call__(self, pairs: Batch) -> Tensor:
        known = dict(leaves(pairs.cond))
        require(
            self.name in known,
            f"Agreeing got pairs with the conditions {sorted(known)}; it compares the condition {self.name!r}: give "
            "its name",
        )
        with eval_mode(self.classifier):
            return self.classifier(pairs.x1).argmax(1) == known[self.name].to(pairs.x1.device)


def lowest(values: Tensor, share: float) -> Tensor:
    """[B] bool: the floor(share B) rows with the lowest values, of equal ones the first."""
    require(
        bool(torch.isfinite(values).all()),
        "a filter got values that are not finite, by which pairs cannot be ordered; check the energy and the teacher",
    )
    kept = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    kept[values.argsort(stable=True)[: math.floor(share * len(values) + 1e-9)]] = True
    return kept
