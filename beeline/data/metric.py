"""Base class of metrics, with the defaults of their protocol."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from beeline.core.declared import check_members, missing
from beeline.core.protocols.data import Better, FullMetric, Metric
from beeline.core.rng import Rng
from beeline.core.types import Cond


class MetricBase:
    """Defaults of the FullMetric protocol: no conditions, nothing to fit, an interval from halves of the samples.

    A subclass gives ``name``, ``better`` and ``__call__``.
    """

    conditional: ClassVar[bool] = False
    resampled: ClassVar[bool] = True

    @property
    def evaluator(self) -> tuple[str, str]:
        return type(self).__name__, "own"

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Any:
        return self

    def interval(self, value: float, n: int) -> tuple[float, float] | None:
        return None


@dataclass(frozen=True)
class MinimalMetric(MetricBase):
    """A metric that has only ``name``, ``better`` and ``__call__``, with the defaults of the other members."""

    metric: Metric

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def better(self) -> Better:
        return self.metric.better

    @property
    def evaluator(self) -> tuple[str, str]:
        return type(self.metric).__name__, "own"

    def __call__(self, real: Tensor, made: Tensor, rng: Rng) -> float:
        return float(self.metric(real, made, rng))


def complete_metric(metric: Any) -> FullMetric:
    """The metric with every member of FullMetric; ValueError names the members that it lacks."""
    check_members(metric, Metric, "these are all that a metric has to have")
    lacking = missing(metric, FullMetric)
    if not lacking:
        found: FullMetric = metric
        return found
    if set(lacking) == set(missing(object(), FullMetric)) - set(missing(object(), Metric)):
        return MinimalMetric(metric)
    check_members(metric, FullMetric, "inherit beeline.data.metric.MetricBase, which has defaults")
    raise AssertionError("a member is missing, but none was named")
