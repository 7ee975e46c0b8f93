"""Data sources of students: pairs generated during the training, and mixtures with real data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.protocols.flows import Source
from beeline.core.protocols.training import Microbatches
from beeline.core.rng import Rng
from beeline.core.types import Batch, map_cond, stack, take, to
from beeline.distillation.pairs import starts
from beeline.fields.flow import Flow
from beeline.objectives.tables import columns_of, completed_rows
from beeline.sampling.sampler import Sampler
from beeline.training.feed.microbatches import FeedBase


@dataclass(frozen=True, eq=False)
class OnlinePairs(FeedBase):
    """Pairs that the teacher generates for every microbatch, so that none is seen twice and none is stored.

    x0 = source(key, n B + i),  x1 = sampler(flow, x0, cond), with the conditions of microbatch n of ``data``
    Costs the evaluations of the sampler in every step.

    >>> from beeline.training.feed.microbatches import InMemory
    >>> data = InMemory(Batch(torch.zeros(4, 1)), Rng(1))
    >>> OnlinePairs(Flow(lambda x, t: 2 + 0 * x), Sampler(1), data, Rng(0)).microbatch(3, 5).x1.shape
    torch.Size([5, 1])
    """

    flow: Flow
    sampler: Sampler
    data: Microbatches  # conditions, and the shape of a datum
    rng: Rng
    sequential = True  # the teacher stays in the process of the training

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"online": [self.rng.seed, *map(str, self.rng.path)]}

    def microbatch(self, number: int, size: int) -> Batch:
        batch = self.data.microbatch(number, size)
        rows = range(number * size, (number + 1) * size)
        x0 = starts(self.flow, rows, self.rng, batch.x1[:1])
        cond = map_cond(lambda leaf: leaf.to(x0.device), batch.cond)
        keyed = self.sampler.seeded(rows, "pairs", self.rng.seed, *self.rng.path)
        with eval_mode(self.flow.field):
            pairs = Batch(keyed(self.flow, x0, cond).to(x0.dtype), x0, cond)
        groups = columns_of(self.flow.field)
        return pairs if groups is None else completed_rows(pairs, groups)


@dataclass(frozen=True, eq=False)
class WithNoise(FeedBase):
    """Real data, each with new noise of a source in every microbatch: independent pairs.

    x0 ~ source, with the random key of the microbatch

    >>> from beeline.couplings.sources import Gaussian
    >>> from beeline.training.feed.microbatches import InMemory
    >>> WithNoise(InMemory(Batch(torch.zeros(4, 1)), Rng(1)), Gaussian(), Rng(0)).microbatch(0, 3).x0.shape
    torch.Size([3, 1])
    """

    data: Microbatches
    source: Source
    rng: Rng

    def microbatch(self, number: int, size: int) -> Batch:
        batch = self.data.microbatch(number, size)
        return replace(batch, x0=self.source.sample(batch.x1, self.rng.fork(number)), weight=None)


@dataclass(frozen=True, eq=False)
class Mixed(FeedBase):
    """Microbatches with an exact share of their data from a second source.

    floor((n + 1) B share) - floor(n B share) of the B data of microbatch n are from ``second``, the others from
    ``first``
    Both sources are read in microbatches of a constant size, so that their epochs stay whole up to one datum a
    microbatch.

    >>> from beeline.training.feed.microbatches import InMemory
    >>> parts = [InMemory(Batch(torch.full((9, 1), v)), Rng(0)) for v in (0.0, 1.0)]
    >>> [int(Mixed(*parts, 0.3).microbatch(n, 4).x1.sum()) for n in range(5)]
    [1, 1, 1, 1, 2]
    """

    first: Microbatches
    second: Microbatches
    share: float  # of the second, 0 to 1 without 1

    def __post_init__(self) -> None:
        require(
            0 <= self.share < 1,
            f"a share of {self.share} of the second source was given; the first one keeps a part: give 0 to below 1",
        )

    def microbatch(self, number: int, size: int) -> Batch:
        exact = size * self.share
        least = math.floor(exact + 1e-9)
        count = math.floor((number + 1) * exact + 1e-9) - math.floor(number * exact + 1e-9)
        first = take(self.first.microbatch(number, size - least), torch.arange(size - count))
        if not count:
            return first
        second = take(self.second.microbatch(number, max(count, math.ceil(exact - 1e-9))), torch.arange(count))
        return stack([first, to(second, first.x1.device)])  # online pairs are on the device of the teacher
