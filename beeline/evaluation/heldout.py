"""Held-out loss with fixed noise and times, by time bin, with two baselines."""

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
    """Stratified times in a random order, equally many in every bin.

    t_i = (p(i) + 1/2) / n, p a permutation
    They are not independent, which is for evaluation and not for training.

    >>> EvenTimes()(2, torch.empty(0), Rng(0)).sort().values
    tensor([0.2500, 0.7500])
    """

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return (rng.permutation(n).to(like.device, like.dtype) + 0.5) / n

    def log_prob(self, t: Tensor) -> Tensor:
        return torch.where((t >= 0) & (t <= 1), torch.zeros_like(t), torch.full_like(t, -math.inf))


@dataclass(frozen=True)
class MeanField:
    """The velocity of a model that predicts the mean of the data.

    v(x, t) = a'(t) E[x1]
    Assumes an affine path and a source of mean zero.

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
    """The exact velocity of a finite data set, which a model learns that memorises it.

    v(x, t) = sum_i w_i (a' x1_i + b' (x - a x1_i) / b),  w = softmax_i(-|x - a x1_i|^2 / (2 b^2))
    Assumes an affine path, a standard Gaussian source and an independent coupling; integer conditions select the data
    with equal conditions.

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
        weight = torch.softmax(score, dim=1).nan_to_num()  # zeros where no datum has the condition
        return self.path.velocity(x, t, x1=(weight @ known).reshape(x.shape))


class HeldOutLoss(NamedTuple):
    """The mean loss, the losses by time bin, and those of the baselines (None where they do not apply)."""

    value: float
    by_bin: list[float]
    mean: list[float] | None  # of the mean of the training set
    posterior: list[float] | None  # of the exact posterior of the training set
    error: float  # standard error of value over the data

    def plain(self) -> dict[str, Any]:
        """As plain data, for the log."""
        return self._asdict()


@dataclass(frozen=True, eq=False)
class HeldOut(CallbackBase):
    """Held-out loss of a field under an objective, with the same noise and times in every call.

    mean over bins of E[loss | t in bin], times (i + 1/2) / n in a fixed order
    It uses the objective that ``spec.heldout`` declares, with even times, weight one and no dropout, so that losses of
    recipes can be compared.

    >>> from beeline.objectives.matching import FlowMatching
    >>> heldout = HeldOut(FlowMatching(), Batch(torch.zeros(64, 2)), bins=4)
    >>> len(heldout(lambda x, t, cond=None: -x).by_bin)
    4
    """

    objective: Any
    data: Batch
    train: Batch | None = None  # the training set, for the baselines; None skips them
    rng: Rng = Rng(0)
    every: int = 500  # steps between two evaluations
    bins: int = 10
    repeats: int = 1  # times and noise samples for every datum
    batch_size: int = 256  # data per forward pass
    max_data: int = 1024  # data that are evaluated, a random subset
    max_train: int = 20000  # larger training sets have no posterior baseline

    def __post_init__(self) -> None:
        require(
            len(self.data.x1) > 0,
            "the held-out set is empty; a held-out loss is a mean over data that are not trained on: hold some out",
        )
        counts = {"every": self.every, "bins": self.bins, "repeats": self.repeats}
        for name, count in (counts | {"batch_size": self.batch_size, "max_data": self.max_data}).items():
            require(count >= 1, f"heldout.{name} is {count}; it is a count: give 1 or more")

    name = "heldout"
    scores = True

    def score(self, found: Mapping[str, Any]) -> float:
        """The loss of the averaged weights; of the raw ones where there is no average."""
        return float((found.get("ema") or found["raw"])["value"])

    def place(self, device: torch.device, seen: dict[int, Any]) -> HeldOut:
        """The same with the tensors of its objective on ``device``."""
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
        """The indices of the data that are evaluated."""
        n = len(self.data.x1)
        return (
            torch.arange(n)
            if n <= self.max_data
            else self.rng.fork("rows").permutation(n)[: self.max_data].sort().values
        )

    @functools.cached_property
    def _measured(self) -> list[tuple[list[float] | None, list[float] | None]]:
        return []

    def _baselines(self, field: Any) -> tuple[list[float] | None, list[float] | None]:
        """The losses of the two baselines, which are computed once."""
        if not self._measured:
            self._measured.append(self._baselines_of(field))
        return self._measured[0]

    def _baselines_of(self, field: Any) -> tuple[list[float] | None, list[float] | None]:
        spec = spec_of(self.objective)
        path = spec.path
        if self.train is None or not isinstance(path, AffinePath) or not spec.baselines:
            return None, None
        mean = self._binned(*self._errors(in_place_of(field, MeanField(self.train.x1.mean(0), path))))
        few = len(self.train.x1) <= self.max_train
        discrete = all(not leaf.is_floating_point() for _, leaf in leaves(self.train.cond))
        if not (gaussian_independent(spec.coupling) and few and discrete):
            return mean, None
        return mean, self._binned(*self._errors(in_place_of(field, ExactPosterior(self.train, path))))

    def _errors(self, field: Any) -> tuple[Tensor, Tensor]:
        """The loss and the bin of every datum and repeat."""
        where = device_of(field) or self.data.x1.device
        objective = moved(heldout_of(self.objective, EvenTimes()), where)
        losses, bins = [], []
        with eval_mode(field, objective):
            for repeat in range(self.repeats):
                for start in range(0, len(self._rows), self.batch_size):
                    batch = to(
                        take(self.data, self._rows[start : start + self.batch_size].to(self.data.x1.device)), where
                    )
                    found = objective(field, batch, self.rng.fork("heldout", repeat, start))
                    losses.append(found.per_sample.float().cpu())
                    t = found.t.float().cpu()
                    bins.append((t.flatten(1).mean(1) if t.ndim > 1 else t) * self.bins)
        return torch.cat(losses), torch.cat(bins).long().clamp(0, self.bins - 1)

    def _binned(self, values: Tensor, bins: Tensor) -> list[float]:
        one = torch.zeros(self.bins).index_add_(0, bins, torch.ones_like(values))
        total = torch.zeros(self.bins).index_add_(0, bins, values)
        return [float(v) for v in total / one]
