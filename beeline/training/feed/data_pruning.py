"""Data pruning: easy data are skipped at random and reweighted, so that the expected gradient is unchanged."""

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

DECAY = 0.99  # per step, of the sums of losses by time


@dataclass(frozen=True)
class DataPruning:
    """In every epoch, skip a fraction of the data with a loss below the mean, and upweight the rest of them.

    P(datum skipped) = share if score < mean score, else 0;  weight of a used easy datum = 1 / (1 - share)
    score = running mean of loss / (mean loss at similar times)
    Assumes data in memory.  The expected gradient is that of all data; the last part of training is not pruned.
    Scores are running means, because a single loss is noisy, and relative to the losses at similar times, because a
    loss depends mostly on its time.
    Source: Qin et al. 2024, InfoBatch (arXiv 2303.04947).

    >>> DataPruning(0.3).share
    0.3
    """

    share: float = 0.5  # fraction of the easy data to skip, 0 to below 1
    last: float = 0.125  # fraction of the steps, at the end, without pruning
    memory: float = 0.8  # decay of the running mean of a score, 0 to below 1
    bins: int = 16  # bins of time in which losses are compared; 1 compares all of them

    def __post_init__(self) -> None:
        require(self.bins >= 1, f"DataPruning got bins={self.bins}; it is a number of bins of time: give 1 or more")
        for name, value in (("share", self.share), ("last", self.last), ("memory", self.memory)):
            require(
                0 <= value < 1, f"DataPruning got {name}={value}; it is a fraction: give a number from 0 to below 1"
            )

    def feed(self, microbatches: Feed) -> PrunedFeed:
        """The feed with pruning; raises BeelineError if the data are not in memory."""
        require(
            isinstance(microbatches, InMemory),
            f"training.data_pruning stores a score for every datum, so it needs data in memory, but the data are "
            f"{type(microbatches).__name__}; give a Batch or a tensor, or set training.data_pruning=none",
        )
        assert isinstance(microbatches, InMemory)
        return PrunedFeed(self, microbatches.batch, microbatches.rng)


@dataclass
class Epoch:
    """One epoch: the order and weights of its data, and its start in the sequence of all data."""

    start: int
    order: Tensor  # [M] indices
    weight: Tensor  # [M]

    @property
    def end(self) -> int:
        return self.start + len(self.order)


class PrunedFeed(FeedBase):
    """Microbatches of a data set with pruned epochs; the scores are part of checkpoints."""

    def __init__(self, pruning: DataPruning, batch: Batch, rng: Rng):
        self.pruning, self.batch, self.rng = pruning, batch, rng
        self.scores = torch.full((len(batch.x1),), float("inf"))
        self.sums, self.counts = torch.zeros(2, pruning.bins)  # of the latest losses, by time
        self.epochs: list[Epoch] = []
        self.count = 0  # epochs so far

    def begin(self, n: int, training: Any) -> None:
        """Compute the epochs that step n needs from the scores before it; they are the same in all processes."""
        first, end = n * training.batch_size, (n + 1) * training.batch_size
        self.epochs = [e for e in self.epochs if e.end > first]
        while not self.epochs or self.epochs[-1].end < end:
            start = self.epochs[-1].end if self.epochs else first
            pruned = n < (1 - self.pruning.last) * training.steps
            self.epochs.append(self._epoch(start, pruned))
            self.count += 1

    def _epoch(self, start: int, pruned: bool) -> Epoch:
        key = self.rng.fork("epoch", self.count)
        known = self.scores.isfinite()
        share = self.pruning.share if pruned and bool(known.any()) else 0.0
        easy = known & (self.scores < self.scores[known].mean()) if share else torch.zeros_like(known)
        skipped = easy & (key.fork("prune").uniform(len(self.scores), torch.empty(0)) < share)
        used = (~skipped).nonzero().flatten()
        order = used[key.permutation(len(used))]
        weight = torch.ones(len(order))
        weight[easy[order]] = 1 / (1 - share)
        return Epoch(start, order, weight)

    def _select(self, number: int, size: int) -> tuple[Tensor, Tensor]:
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
        return self._select(number, size)[0]

    def microbatch(self, number: int, size: int) -> Batch:
        rows, weight = self._select(number, size)
        batch = take(self.batch, rows.to(self.batch.x1.device))
        weight = weight.to(batch.x1)
        return replace(batch, weight=weight if batch.weight is None else batch.weight * weight)

    def observe(
        self, n: int, training: Any, errors: Mapping[int, tuple[Tensor, Tensor]], total: Callable[[Tensor], Tensor]
    ) -> None:
        """Update the scores with the losses and times of step n, of all processes."""
        device = next(iter(errors.values()))[0].device
        seen = torch.zeros(2, training.microbatches, training.microbatch_size, device=device)
        for k, (error, t) in errors.items():
            _, weight = self._select(n * training.microbatches + k, training.microbatch_size)
            seen[0, k] = error.detach().to(seen) / weight.to(seen)
            seen[1, k] = t.detach().to(seen).reshape(len(t), -1).mean(1)
        losses, t = total(seen).flatten(1).cpu()
        bins = (t * self.pruning.bins).long().clamp(0, self.pruning.bins - 1)
        self.sums = (DECAY * self.sums).index_add(0, bins, losses)
        self.counts = (DECAY * self.counts).index_add(0, bins, torch.ones_like(losses))
        losses = losses / (self.sums / self.counts)[bins].clamp(min=1e-30)
        rows = torch.cat(
            [self.rows(n * training.microbatches + k, training.microbatch_size) for k in range(training.microbatches)]
        )
        old = self.scores[rows]
        m = self.pruning.memory
        self.scores[rows] = torch.where(old.isfinite(), m * old + (1 - m) * losses, losses)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Scores and epochs, as JSON data and tensors."""
        tensors = {"scores": self.scores.clone(), "sums": self.sums.clone(), "counts": self.counts.clone()}
        for i, epoch in enumerate(self.epochs):
            tensors[f"order{i}"], tensors[f"weight{i}"] = epoch.order, epoch.weight
        return {"count": self.count, "starts": [e.start for e in self.epochs]}, tensors

    def load_state(self, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore a state."""
        self.scores, self.sums, self.counts = (tensors[name].clone() for name in ("scores", "sums", "counts"))
        self.count = int(plain["count"])
        self.epochs = [Epoch(s, tensors[f"order{i}"], tensors[f"weight{i}"]) for i, s in enumerate(plain["starts"])]
