"""DataPruning: easy data are left out by chance, and weigh more when they are not, so that the mean stays the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.training import Feed
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, take
from beeline.training.feed.microbatches import FeedBase, InMemory

RECENT = 0.99  # of the sums of losses by time, kept from step to step


@dataclass(frozen=True)
class DataPruning:
    """In every epoch a share of the data with a loss below the mean is left out; the others of them weigh more.

    P(datum left out) = share if score < mean score, else 0;  weight of a kept easy datum = 1 / (1 - share)
    score = running mean of loss / (mean loss at such times)
    Assumes data in memory.  The expected gradient is that of all data; the last part of training sees all of them.
    Scores are running means, because one draw of time and noise says little, and relative to other losses at the same
    times, because the time decides most of a loss.
    Source: Qin et al. 2024, InfoBatch (arXiv 2303.04947).

    >>> DataPruning(0.3).share
    0.3
    """

    share: float = 0.5  # of the easy data left out, 0 to below 1
    last: float = 0.125  # share of the steps, at the end, without pruning
    memory: float = 0.8  # of a datum's score when it is seen again, 0 to below 1
    bins: int = 16  # parts of [0, 1] in which losses are compared, from 1 (as they are)

    def __post_init__(self) -> None:
        require(self.bins >= 1, f"DataPruning got bins={self.bins}; it is a number of parts of time: give 1 or more")
        for name in ("share", "last", "memory"):
            value = getattr(self, name)
            require(0 <= value < 1, f"DataPruning got {name}={value}; give a number from 0 to below 1")

    def feed(self, microbatches: Feed) -> PrunedFeed:
        """The feed that prunes."""
        require(
            isinstance(microbatches, InMemory),
            f"pruning was asked for on {type(microbatches).__name__}; it keeps a score for every datum, so the data "
            "have to be in memory: give a Batch or a tensor, or set training.data_pruning=none",
        )
        assert isinstance(microbatches, InMemory)
        return PrunedFeed(self, microbatches.batch, microbatches.rng)


@dataclass
class Epoch:
    """One epoch: the kept data in their order, and where it starts in the stream of all data."""

    start: int
    order: Tensor  # [M] indices
    weight: Tensor  # [M]

    @property
    def end(self) -> int:
        return self.start + len(self.order)


class PrunedFeed(FeedBase):
    """Microbatches of a data set whose epochs leave out easy data; its scores are part of a checkpoint."""

    def __init__(self, pruning: DataPruning, batch: Batch, rng: Rng):
        self.pruning, self.batch, self.rng = pruning, batch, rng
        self.scores = torch.full((len(batch.x1),), float("inf"))
        self.sums, self.counts = torch.zeros(2, pruning.bins)  # of the latest losses, by time
        self.epochs: list[Epoch] = []
        self.count = 0  # epochs made so far

    def begin(self, n: int, training: Any) -> None:
        """Make the epochs that step n needs, from the scores before it; all processes make the same."""
        first, end = n * training.batch_size, (n + 1) * training.batch_size
        self.epochs = [e for e in self.epochs if e.end > first]
        while not self.epochs or self.epochs[-1].end < end:
            start = self.epochs[-1].end if self.epochs else first
            prunes = n < (1 - self.pruning.last) * training.steps
            self.epochs.append(self._epoch(start, prunes))
            self.count += 1

    def _epoch(self, start: int, prunes: bool) -> Epoch:
        key = self.rng.fork("epoch", self.count)
        known = self.scores.isfinite()
        share = self.pruning.share if prunes and bool(known.any()) else 0.0
        easy = known & (self.scores < self.scores[known].mean()) if share else torch.zeros_like(known)
        gone = easy & (key.fork("prune").uniform(len(self.scores), torch.empty(0)) < share)
        kept = (~gone).nonzero().flatten()
        order = kept[key.permutation(len(kept))]
        weight = torch.ones(len(order))
        weight[easy[order]] = 1 / (1 - share)
        return Epoch(start, order, weight)

    def _pick(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        rows, weights = [], []
        position, end = number * size, (number + 1) * size
        for epoch in self.epochs:
            part = slice(max(0, position - epoch.start), max(0, end - epoch.start))
            if part.stop > part.start:
                rows.append(epoch.order[part])
                weights.append(epoch.weight[part])
        return torch.cat(rows), torch.cat(weights)

    def rows(self, number: int, size: int) -> Tensor:
        """The indices of the data in a microbatch."""
        return self._pick(number, size)[0]

    def microbatch(self, number: int, size: int) -> Batch:
        rows, weight = self._pick(number, size)
        made = take(self.batch, rows.to(self.batch.x1.device))
        weight = weight.to(made.x1)
        return replace(made, weight=weight if made.weight is None else made.weight * weight)

    def observe(
        self, n: int, training: Any, errors: Mapping[int, tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor]
    ) -> None:
        """Note the losses of step n and their times, of all processes."""
        device = next(iter(errors.values()))[0].device
        seen = torch.zeros(2, training.microbatches, training.microbatch_size, device=device)
        for k, (error, t) in errors.items():
            _, weight = self._pick(n * training.microbatches + k, training.microbatch_size)
            seen[0, k] = error.detach().to(seen) / weight.to(seen)
            seen[1, k] = t.detach().to(seen).reshape(len(t), -1).mean(1)
        losses, t = total(seen).flatten(1).cpu()
        place = (t * self.pruning.bins).long().clamp(0, self.pruning.bins - 1)
        self.sums = (RECENT * self.sums).index_add(0, place, losses)
        self.counts = (RECENT * self.counts).index_add(0, place, torch.ones_like(losses))
        losses = losses / (self.sums / self.counts)[place].clamp(min=1e-30)
        rows = torch.cat(
            [self.rows(n * training.microbatches + k, training.microbatch_size) for k in range(training.microbatches)]
        )
        old = self.scores[rows]
        m = self.pruning.memory
        self.scores[rows] = torch.where(old.isfinite(), m * old + (1 - m) * losses, losses)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The memory as plain data and tensors."""
        tensors = {"scores": self.scores.clone(), "sums": self.sums.clone(), "counts": self.counts.clone()}
        for i, epoch in enumerate(self.epochs):
            tensors[f"order{i}"], tensors[f"weight{i}"] = epoch.order, epoch.weight
        return {"count": self.count, "starts": [e.start for e in self.epochs]}, tensors

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a memory."""
        self.scores, self.sums, self.counts = (tensors[name].clone() for name in ("scores", "sums", "counts"))
        self.count = int(plain["count"])
        self.epochs = [Epoch(s, tensors[f"order{i}"], tensors[f"weight{i}"]) for i, s in enumerate(plain["starts"])]
