"""The held-out loss, with fixed noise and fixed times, by time bin, beside two baselines that say what it means."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beeline.core.declared import in_place_of
from beeline.core.errors import require
from beeline.core.modes import device_of, eval_mode, moved
from beeline.core.protocols.flows import gaussian_independent
from beeline.core.protocols.objectives import heldout_of, spec_of
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, expand_time, leaves, take, to
from beeline.paths.affine import AffinePath, Linear
from beeline.training.callbacks import CallbackBase


@dataclass(frozen=True)
class EvenTimes:
    """Times spread evenly and put in a random order, so that every bin gets its share.

    t_i = (p(i) + 1/2) / n, p a permutation
    Assumes that the times need not be independent: a measurement, not training.
    Source: none; stratification.

    >>> EvenTimes()(2, torch.empty(0), Rng(0)).sort().values
    tensor([0.2500, 0.7500])
    """

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return (rng.permutation(n).to(like.device, like.dtype) + 0.5) / n

    def log_prob(self, t: Tensor) -> Tensor:
        return torch.where((t >= 0) & (t <= 1), torch.zeros_like(t), torch.full_like(t, -math.inf))


@dataclass(frozen=True)
class MeanField:
    """The velocity of a model that knows only the mean of the data.

    v(x, t) = a'(t) E[x1]     (a source of mean zero)
    Assumes an affine path and a source of mean zero.
    Source: none; the baseline that a useful model has to beat.

    >>> MeanField(torch.ones(1))(torch.zeros(2, 1), torch.zeros(2))
    tensor([[1.],
            [1.]])
    """

    mean: Tensor  # [*S]
    path: AffinePath = dataclasses.field(default_factory=Linear)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        slope = self.path.coefficients(t)[2]
        return expand_time(slope, x) * self.mean.to(x).expand_as(x)


@dataclass(frozen=True, eq=False)
class ExactPosterior:
    """The exact velocity of a finite set of data: what a model would learn that memorises it.

    v(x, t) = sum_i w_i (a' x1_i + b' (x - a x1_i) / b),  w = softmax_i(-|x - a x1_i|^2 / (2 b^2))
    Assumes an affine path, a standard Gaussian source and an independent coupling; conditions of whole numbers
    select the data they are equal to.
    Source: none; Bayes' rule.

    >>> ExactPosterior(Batch(torch.ones(1, 1)))(torch.zeros(1, 1), torch.zeros(1))
    tensor([[1.]])
    """

    data: Batch
    path: AffinePath = dataclasses.field(default_factory=Linear)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        a, b, _, _ = self.path.coefficients(t)
        known = self.data.x1.flatten(1).to(x)
        flat, a, b = x.flatten(1), a[:, None], b[:, None].clamp(min=1e-6)
        far = (flat * flat).sum(1, keepdim=True) - 2 * a * (flat @ known.T) + a * a * (known * known).sum(1)
        score = -far / (2 * b * b)
        stored = dict(leaves(self.data.cond))
        for name, leaf in leaves(cond):
            if name in stored and not leaf.is_floating_point():
                same = leaf.reshape(len(x), 1, -1) == stored[name].to(leaf.device).reshape(1, len(known), -1)
                score = score.masked_fill(~same.all(-1), -math.inf)
        weight = torch.softmax(score, dim=1).nan_to_num()  # a condition that no datum has: nothing is known
        return self.path.velocity(x, t, x1=(weight @ known).reshape(x.shape))


class HeldOutLoss(NamedTuple):
    """Mean loss, and by time bin beside the baselines (None where one cannot be had)."""

    value: float
    by_bin: list[float]
    mean: list[float] | None  # predicting the mean
    posterior: list[float] | None  # the exact posterior of the training set
    error: float  # standard error of value over the data

    def plain(self) -> dict[str, Any]:
        """As plain data, for the log."""
        return self._asdict()


@dataclass(frozen=True, eq=False)
class HeldOut(CallbackBase):
    """Held-out loss of a field under an objective: the same noise and the same times at every call.

    mean over bins of E[loss | t in bin], times (i + 1/2) / n in a fixed order
    Assumes an objective of a velocity field; where it, or an objective inside it, has ``times``, ``weight`` and
    ``drop`` they are replaced by even times, weight one and no dropping, so that losses of recipes can be compared.
    Source: none.

    >>> from beeline.objectives.matching import FlowMatching
    >>> look = HeldOut(FlowMatching(), Batch(torch.zeros(64, 2)), bins=4)
    >>> len(look(lambda x, t, cond=None: -x).by_bin)
    4
    """

    objective: Any
    data: Batch
    train: Batch | None = None  # the training set, for the baselines; None leaves them out
    rng: Rng = Rng(0)
    every: int = 500  # steps between two looks
    bins: int = 10
    draws: int = 1  # times and noises for every datum
    batch_size: int = 256  # data at once
    most: int = 1024  # data looked at, taken by chance; a look should not cost more than the training
    largest: int = 20000  # the exact posterior is left out for larger training sets

    def __post_init__(self) -> None:
        require(
            len(self.data.x1) > 0,
            "the held-out set is empty; a held-out loss needs data that training does not see: hold some out",
        )
        counts = {"every": self.every, "bins": self.bins, "draws": self.draws}
        for name, count in (counts | {"batch_size": self.batch_size, "most": self.most}).items():
            require(count >= 1, f"heldout.{name} is {count}; it is a count: give 1 or more")

    name = "heldout"
    scores = True

    def score(self, found: Mapping[str, Any]) -> float:
        """The loss of the averaged weights, where there are some, else of the raw ones."""
        return float((found.get("ema") or found["raw"])["value"])

    def place(self, device: torch.device, seen: dict[int, Any]) -> HeldOut:
        """The same with what its objective holds on ``device``."""
        return dataclasses.replace(self, objective=moved(self.objective, device, seen))

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """The losses of the raw and of the averaged weights, as plain data."""
        return {kind: self(net).plain() for kind, net in (("raw", raw), ("ema", ema)) if net is not None}

    def __call__(self, field: Any) -> HeldOutLoss:
        values, bins = self._errors(field)
        by_bin = self._binned(values, bins)
        mean, posterior = self._baselines(field)
        known = [v for v in by_bin if math.isfinite(v)]
        return HeldOutLoss(
            sum(known) / max(1, len(known)),
            by_bin,
            mean,
            posterior,
            float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan,
        )

    @functools.cached_property
    def _rows(self) -> Tensor:
        """The data looked at: all of them, or as many as is allowed."""
        n = len(self.data.x1)
        return torch.arange(n) if n <= self.most else self.rng.fork("rows").permutation(n)[: self.most].sort().values

    @functools.cached_property
    def _measured(self) -> list[tuple[list[float] | None, list[float] | None]]:
        return []

    def _baselines(self, field: Any) -> tuple[list[float] | None, list[float] | None]:
        """The losses of the two baselines in place of a network: fixed, so measured once."""
        if not self._measured:
            self._measured.append(self._baselines_of(field))
        return self._measured[0]

    def _baselines_of(self, field: Any) -> tuple[list[float] | None, list[float] | None]:
        spec = spec_of(self.objective)
        path = spec.path
        if self.train is None or not isinstance(path, AffinePath) or not spec.baselines:
            return None, None
        mean = self._binned(*self._errors(in_place_of(field, MeanField(self.train.x1.mean(0), path))))
        few = len(self.train.x1) <= self.largest
        discrete = all(not leaf.is_floating_point() for _, leaf in leaves(self.train.cond))
        if not (gaussian_independent(spec.coupling) and few and discrete):
            return mean, None
        return mean, self._binned(*self._errors(in_place_of(field, ExactPosterior(self.train, path))))

    def _errors(self, field: Any) -> tuple[Tensor, Tensor]:
        """The loss and the bin of every datum and draw."""
        where = device_of(field) or self.data.x1.device
        objective = moved(heldout_of(self.objective, EvenTimes()), where)
        losses, bins = [], []
        with eval_mode(field, objective):
            for draw in range(self.draws):
                for start in range(0, len(self._rows), self.batch_size):
                    batch = to(
                        take(self.data, self._rows[start : start + self.batch_size].to(self.data.x1.device)), where
                    )
                    found = objective(field, batch, self.rng.fork("heldout", draw, start))
                    losses.append(found.per_sample.float().cpu())
                    t = found.t.float().cpu()
                    bins.append((t.flatten(1).mean(1) if t.ndim > 1 else t) * self.bins)
        return torch.cat(losses), torch.cat(bins).long().clamp(0, self.bins - 1)

    def _binned(self, values: Tensor, bins: Tensor) -> list[float]:
        one = torch.zeros(self.bins).index_add_(0, bins, torch.ones_like(values))
        total = torch.zeros(self.bins).index_add_(0, bins, values)
        return [float(v) for v in total / one]
