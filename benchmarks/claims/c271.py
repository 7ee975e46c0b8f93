"""rmse of the velocity on the ring with 2,000 data, half of the data of less than mean loss pruned. As many epochs take
about a quarter fewer steps; the fraction is counted from the order of the epochs. The last finding requires that the
loss of quality is below five percent of the error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import beeline as bl
from beeline.training.feed.data_pruning import DataPruning, PrunedFeed
from benchmarks.claims.toys import RING, finding, learn, network, points, velocity_error
from benchmarks.claims.verdict import Finding

METHOD = "InfoBatch: unbiased pruning of data"
CLAIM = "27 percent of the cost of training is saved without loss."
SEEDS, STEPS, SAVED, DATA = 4, 600, 0.27, 2000


class Counting(PrunedFeed):
    """Records the sizes of its epochs."""

    def __init__(self, pruning: Counted, batch: bl.Batch, rng: bl.Rng):
        super().__init__(pruning, batch, rng)
        self.sizes = pruning.sizes

    def _epoch(self, start: int, pruned: bool) -> Any:
        epoch = super()._epoch(start, pruned)
        self.sizes.append(len(epoch.order))
        return epoch


@dataclass(frozen=True)
class Counted(DataPruning):
    """DataPruning with a record of the sizes of its epochs."""

    sizes: list[int] = field(default_factory=list)

    def feed(self, microbatches: Any) -> PrunedFeed:
        return Counting(self, microbatches.batch, microbatches.rng)


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective = points(rng, n=DATA), bl.objectives.FlowMatching()
    pruning = Counted(0.5)

    def error(share: float, **more: Any) -> float:
        net = learn(network(rng), objective, data, rng.fork("net"), steps=round(share * STEPS), **more)
        return velocity_error(net, RING, rng)

    whole, less, pruned = error(1.0), error(1 - SAVED), error(1 - SAVED, data_pruning=pruning)
    saved = 1 - sum(pruning.sizes) / (len(pruning.sizes) * DATA)
    raw = velocity_error(network(rng), RING, rng)
    return [
        finding("share of the data that epochs leave out (figure) against 0.2", 0.2, saved, 0.0, "no pruning",
                better="higher"),
        finding(f"{SAVED:.0%} fewer steps: pruned (figure) against unpruned", less, pruned, raw),
        finding(f"pruned with {SAVED:.0%} fewer steps (figure) against all data and steps, 5% worse", 1.05 * whole,
                pruned, raw),
    ]  # fmt: skip
