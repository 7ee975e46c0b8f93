"""Whether samples are copies of training data: nearest training data, compared with those of held-out data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.files import digest
from beeline.core.protocols.data import Features
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.evaluation.features import Identity
from beeline.evaluation.metrics import some
from beeline.evaluation.neighbours import nearest
from beeline.evaluation.scores import Score, Seen

PIXELS = "data space"


class Found(NamedTuple):
    """What the comparison gives: a score per space, the nearest pairs as plain data, and the data of the pairs."""

    scores: tuple[Score, ...]
    details: dict[str, Any]
    shown: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Memorisation:
    """The share of samples that are nearer to the training data than held-out data are.

    P(d(y, T) < d(h, T)) + P(d(y, T) = d(h, T)) / 2,  d(., T) the distance to the nearest training datum,  y a sample,
    h a held-out datum
    1/2 for samples of the distribution of the data, 1 for copies of training data; values below 1/2 are samples away
    from the data, and values above it may also be samples smoother than the data.  The interval is that of a
    Mann-Whitney statistic.
    Assumes held-out data of the distribution of the training data and without their copies.
    Source: Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying" (arXiv 2004.05675); DeLong et al. 1988.

    >>> train, held = torch.randn(50, 2), torch.randn(20, 2)
    >>> Memorisation(train, held)(train[:9]).scores[0].value
    1.0
    """

    train: Tensor  # [N,*S] encoded
    held: Tensor  # [M,*S] encoded
    features: Features = field(default_factory=Identity)  # a second space beside that of the data
    pairs: Count = 8  # samples that are shown beside their nearest training data: those that are nearest
    rows: Count = 5000  # samples and held-out data that are compared, random subsets

    def __post_init__(self) -> None:
        require(
            len(self.train) > 0 and len(self.held) > 0,
            f"memorisation was to be measured with {len(self.train)} training and {len(self.held)} held-out data; it "
            "compares distances to training data of samples and of held-out data: give both",
        )

    def __call__(self, made: Tensor, rng: Rng | None = None, seen: Seen | None = None) -> Found:
        """Compare samples [B,*S] with the training data; ``seen`` holds features of the data, and is extended."""
        rng = rng or Rng(0)
        made, held = some(made, self.rows, rng.fork("made")), some(self.held, self.rows, rng.fork("held"))
        seen, keys = {} if seen is None else seen, (digest({"x": self.train}), digest({"x": held}))
        spaces = {PIXELS: tuple(x.flatten(1).float() for x in (made, self.train, held))}
        if not isinstance(self.features, Identity):
            known = {(self.features.hash, key): x for key, x in zip(keys, (self.train, held), strict=True)}
            for key, x in known.items():
                if key not in seen:
                    seen[key] = self.features(x)
            spaces[self.features.name] = (self.features(made), *(seen[key] for key in known))
        near: dict[str, tuple[Tensor, Tensor]] = {}
        scores, ranks = [], {}
        for name, (ours, train, others) in spaces.items():
            near[name] = nearest(ours, train)
            base = nearest(others, train)[0]
            share, interval = share_below(near[name][0], base)
            ranks[name] = (base[None] < near[name][0][:, None]).double().mean(1)
            scores.append(
                Score(
                    f"memorisation ({name})",
                    share,
                    interval,
                    0.5,
                    "lower",
                    len(ours),
                    len(train),
                    f"nearest neighbours in {name}",
                    "exact" if name == PIXELS else self.features.hash,
                    keys[0],
                    len(others),
                    note=verdict(interval),
                )
            )
        return Found(tuple(scores), *self._pairs(made, near, ranks))

    def _pairs(
        self, made: Tensor, near: Mapping[str, tuple[Tensor, Tensor]], ranks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The samples nearest to training data in the last space, with their neighbours in every space."""
        last = list(near)[-1]
        order = near[last][0].argsort(stable=True)[: self.pairs]
        pairs = [
            {
                name: {
                    "row": int(index[i]),
                    "distance": float(distance[i]),
                    "held-out data that are nearer": float(ranks[name][i]),
                }
                for name, (distance, index) in near.items()
            }
            for i in order.tolist()
        ]
        copies = int((near[PIXELS][0] == 0).sum())
        shown = {"samples": made[order]} | {name: self.train[index[order]] for name, (_, index) in near.items()}
        return {"copies": copies, "of": len(made), "pairs": pairs}, shown


def share_below(ours: Tensor, theirs: Tensor) -> tuple[float, tuple[float, float]]:
    """P(ours < theirs) + P(ours = theirs) / 2 of two samples [N], [M], with its 95% interval.

    The variance is that of the placements of each sample among the other; where all values are on one side, the
    interval is that of a proportion of the smaller number.
    """
    ours, theirs = ours.double(), theirs.double()
    first, second = placements(ours, theirs), 1 - placements(theirs, ours)
    share, n, m = float(first.mean()), len(ours), len(theirs)
    variance = sum(float(p.var()) / len(p) for p in (first, second) if len(p) > 1)
    if variance > 0:
        half = 1.959964 * math.sqrt(variance)
        return share, (max(0.0, share - half), min(1.0, share + half))
    z2, least = 1.959964**2, min(n, m)
    centre = (share + z2 / (2 * least)) / (1 + z2 / least)
    half = math.sqrt(z2 * share * (1 - share) / least + (z2 / (2 * least)) ** 2) / (1 + z2 / least)
    return share, (max(0.0, centre - half), min(1.0, centre + half))


def placements(x: Tensor, y: Tensor) -> Tensor:
    """The share of ``y`` [M] above each of ``x`` [N], ties counted by half: [N]."""
    y = y.sort().values
    above = len(y) - torch.searchsorted(y, x, right=True)
    return (above + (len(y) - torch.searchsorted(y, x, right=False))) / (2 * len(y))


def verdict(interval: tuple[float, float]) -> str:
    """What an interval of the share says, in words."""
    low, high = interval
    if low > 0.5:
        return "above 1/2: samples are nearer to the training data than new data are (copies, or smoother samples)"
    if high < 0.5:
        return "below 1/2: samples are farther from the training data than new data are; no sign of copies"
    return "1/2 is expected without memorisation, and lies in the interval"
