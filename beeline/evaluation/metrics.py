"""Metrics: distances between generated and real data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.data import Better, Features, LabelFeatures
from beeline.core.ranges import Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.data.metric import MetricBase
from beeline.evaluation.features import Identity, SmallClassifier, labels_of

M = TypeVar("M", bound="FeatureMetric")


class Estimate(NamedTuple):
    """A value of a metric, with its own 95% interval where it has one, and what has to be known of it."""

    value: float
    interval: tuple[float, float] | None = None  # None: estimated from random halves of the samples
    note: str = ""
    reference: tuple[str, int] | None = None  # hash and number of the real data, where they are not those given


PRODUCTS = 2**31  # of an energy distance, a fraction of a second; its interval and baseline take about fifty of them


@dataclass(frozen=True)
class FeatureMetric(MetricBase):
    """Base of metrics that compare the features of both samples.

    A subclass gives ``compare`` on features [N,d] and [M,d] in float64.  Features are computed once, and shared by
    baselines and intervals, which compare many parts of the same samples.
    """

    features: Features = field(default_factory=Identity)  # data space by default
    name: ClassVar[str] = ""
    better: ClassVar[Better] = "lower"

    @property
    def evaluator(self) -> tuple[str, str]:
        return self.features.name, self.features.hash

    def fit(self: M, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> M:
        """The metric with features fitted to the reference set."""
        return replace(self, features=self.features.fit(x, cond, cache=cache))

    def view(self, x: Tensor) -> Tensor:
        return self.features(x)

    def least(self, size: int) -> int:
        """The smallest number of samples for ``size`` features."""
        return 2

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        raise NotImplementedError

    def estimate(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> Estimate:
        """The value of all samples; a metric that resamples them itself gives its interval as well."""
        return Estimate(self.compare(real, made, rng, cond))

    def __call__(self, real: Tensor, made: Tensor, rng: Rng, *, cond: Cond = None) -> float:
        sound(real, made)
        a, b = self.view(real), self.view(made)
        enough(self, a, b)
        return self.compare(a, b, rng, cond)


@dataclass(frozen=True)
class Frechet(FeatureMetric):
    """Frechet distance between Gaussians with the means and covariances of both samples, in a feature space.

    |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)),  tr sqrt(S1 S2) = sum sqrt eig(sqrt(S1) S2 sqrt(S1))
    Assumes more samples than features.  Biased upwards by about (features / samples): compare equal numbers of samples,
    and the real-vs-real baseline.
    Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982.

    >>> x = Rng(0).normal(torch.empty(100, 2))
    >>> round(Frechet()(x, x + torch.tensor([3.0, 4.0]), Rng(0)), 4)
    25.0
    """

    name: ClassVar[str] = "Frechet distance"

    def least(self, size: int) -> int:
        return size + 1

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        (m1, s1), (m2, s2) = moments(real), moments(made)
        return frechet(m1, s1, m2, s2)

    def estimate(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> Estimate:
        note = f"of {len(made):,} generated and {len(real):,} real samples in {real.shape[1]:,} features: it grows as "
        note += "samples become fewer, so compare values of equal numbers"
        still = int((real.var(0) == 0).sum())
        if still:
            note += f"; {still} features are constant over the real data, so their covariance is rank deficient"
        return Estimate(self.compare(real, made, rng, cond), note=note)


@dataclass(frozen=True)
class Kernel(FeatureMetric):
    """Kernel distance (KID): unbiased squared maximum mean discrepancy with a cubic polynomial kernel.

    mean k(x,x') + mean k(y,y') - 2 mean k(x,y) over distinct pairs,  k(x,y) = (x.y / d + 1)^3
    Assumes features of order one.  May be slightly negative where the distributions agree.
    Source: Binkowski et al. 2018, "Demystifying MMD GANs" (arXiv 1801.01401).

    >>> x = Rng(0).normal(torch.empty(500, 2))
    >>> abs(Kernel()(x[:250], x[250:], Rng(0))) < 0.1
    True
    """

    rows: Annotated[int, Range(least=2)] = 4096  # largest random subset of each sample; the cost is quadratic in it
    name: ClassVar[str] = "kernel distance"

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        a, b = some(real, self.rows, rng.fork("real")), some(made, self.rows, rng.fork("made"))
        size = a.shape[1]

        def kernel(x: Tensor, y: Tensor) -> Tensor:
            return (x @ y.T / size + 1) ** 3

        return within(a, kernel) + within(b, kernel) - 2 * between(a, b, kernel)


@dataclass(frozen=True)
class KID(FeatureMetric):
    """Kernel distance as it is published: the mean over random subsets of a fixed size.

    mean over subsets of mean k(x,x') + mean k(y,y') - 2 mean k(x,y),  k(x,y) = (x.y / d + 1)^3
    The interval is the delete-d jackknife of the subsets; a subset has at most half of the samples.  Unbiased, so
    slightly negative values occur where the distributions agree.
    Source: Binkowski et al. 2018, "Demystifying MMD GANs" (arXiv 1801.01401).

    >>> x = Rng(0).normal(torch.empty(500, 2))
    >>> abs(KID(size=100)(x[:250], x[250:], Rng(0))) < 0.1
    True
    """

    subsets: Annotated[int, Range(least=2)] = 100
    size: Annotated[int, Range(least=2)] = 1000  # of a subset of each sample
    name: ClassVar[str] = "KID"

    def least(self, size: int) -> int:
        return 4

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        return self.estimate(real, made, rng).value

    def estimate(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> Estimate:
        from scipy.stats import t as student  # imported late: it takes a second

        n = min(len(real), len(made))
        size, kernel = min(self.size, n // 2), Kernel(self.features, self.size)
        parts = [
            kernel.compare(some(real, size, rng.fork(k, "real")), some(made, size, rng.fork(k, "made")), rng)
            for k in range(self.subsets)
        ]
        values = torch.tensor(parts, dtype=torch.float64)
        value, spread = float(values.mean()), float(values.std())
        half = float(student.ppf(0.975, self.subsets - 1)) * spread * math.sqrt(size / (n - size))
        note = f"mean of {self.subsets} subsets of {size:,}; their standard deviation is {spread:.3g}"
        return Estimate(value, (value - half, value + half), note)


@dataclass(frozen=True)
class SlicedWasserstein(FeatureMetric):
    """Sliced Wasserstein distance: optimal transport of projections on random directions.

    (mean over directions of W_p(<u, x>, <u, y>)^p)^(1/p), exact for samples of any sizes
    The bias decreases as 1/sqrt(n); the sensitivity to differences in few of many dimensions is low.
    Source: Rabin et al. 2011; Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of Measures".

    >>> x = Rng(0).normal(torch.empty(50, 1))
    >>> round(SlicedWasserstein()(x, x + 2, Rng(0)), 4)
    2.0
    """

    projections: int = 128  # directions; the error decreases with their square root
    power: float = 2.0  # p, at least 1
    name: ClassVar[str] = "sliced Wasserstein"

    def __post_init__(self) -> None:
        require(
            self.projections >= 1 and self.power >= 1,
            f"SlicedWasserstein got projections={self.projections}, power={self.power}, but both are at least 1; "
            "give for example 128 and 2",
        )

    def least(self, size: int) -> int:
        return 1

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        along = rng.fork("directions").normal(real.new_empty(real.shape[1], self.projections))
        along = along / along.norm(dim=0)
        cost = float(transport(real @ along, made @ along, self.power).mean())
        return math.pow(cost, 1 / self.power)


@dataclass(frozen=True)
class Energy(FeatureMetric):
    """Energy distance, zero only for equal distributions.

    2 E|x - y| - E|x - x'| - E|y - y'| over distinct pairs
    Assumes finite means.  Unbiased, so slightly negative values occur where the distributions agree.
    Source: Szekely and Rizzo 2013, "Energy statistics: a class of statistics based on distances".

    >>> x = Rng(0).normal(torch.empty(200, 2))
    >>> Energy()(x, x + 1, Rng(0)) > 0.4
    True
    """

    rows: Annotated[int, Range(least=2)] = 4096  # largest random subset; fewer where rows^2 x dimension is above 2^31
    name: ClassVar[str] = "energy distance"

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        rows = min(self.rows, max(2, math.isqrt(PRODUCTS // real.shape[1])))
        a, b = some(real, rows, rng.fork("real")), some(made, rows, rng.fork("made"))
        centre = a.mean(0)  # distances do not change, and large offsets cancel without loss
        a, b = a - centre, b - centre
        return 2 * between(a, b, apart) - within(a, apart) - within(b, apart)


@dataclass(frozen=True)
class LabelAgreement(FeatureMetric):
    """Fraction of generated samples that a classifier assigns to the label of their condition.

    mean [classify(y) = label]
    Assumes a conditional model and a classifier, by default a small one trained on the reference set.  Its baseline is
    the accuracy on real data.
    Source: Ravuri and Vinyals 2019 (arXiv 1905.10887), whose classification accuracy score is its counterpart.

    >>> from torch import nn
    >>> from beeline.evaluation.features import Module
    >>> x = torch.eye(3)
    >>> LabelAgreement(Module(nn.Identity(), "argmax"))(x, x, Rng(0), cond=torch.tensor([0, 1, 1])) == 2 / 3
    True
    """

    features: Features = field(default_factory=SmallClassifier)  # with classify(x) -> [N]
    label: str = ""  # name of the condition that holds the labels; empty: the only integer one
    name: ClassVar[str] = "label agreement"
    better: ClassVar[Better] = "higher"
    conditional: ClassVar[bool] = True
    resampled: ClassVar[bool] = False

    def view(self, x: Tensor) -> Tensor:
        features = self.features
        require(
            isinstance(features, LabelFeatures),
            f"LabelAgreement was given {type(features).__name__}, which has no classify(x), so it gives no labels; "
            "give SmallClassifier() or Module(net, name) with a network that returns logits",
        )
        assert isinstance(features, LabelFeatures)
        return features.classify(x)[:, None].double()

    def least(self, size: int) -> int:
        return 1

    def compare(self, real: Tensor, made: Tensor, rng: Rng, cond: Cond = None) -> float:
        return float((made[:, 0].long() == labels_of(cond, self.label, len(made)).to(made.device)).double().mean())

    def interval(self, value: float, n: int) -> tuple[float, float]:
        """The 95% Wilson interval of a proportion."""
        z2 = 1.959964**2
        centre, half = (value + z2 / (2 * n)), math.sqrt(z2 * value * (1 - value) / n + (z2 / (2 * n)) ** 2)
        return (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)


# ---------------------------------------------------------------------------------------------------------- formulas


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d,d] of rows [N,d], in float64."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance between two Gaussians."""
    values, vectors = torch.linalg.eigh(s1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum()
    return max(float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross), 0.0)


def transport(x: Tensor, y: Tensor, power: float = 2.0) -> Tensor:
    """W_p^p between the columns of [N,K] and of [M,K], exact for any N and M: [K]."""
    n, m = len(x), len(y)
    x, y = x.sort(dim=0).values, y.sort(dim=0).values
    if n == m:
        return (x - y).abs().pow(power).mean(0)
    # the quantile functions are constant between the points i/n and j/m, here integers over n m
    cuts = torch.unique(torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]))
    weight = torch.cat([cuts[:1], cuts.diff()]).to(x) / (n * m)
    gap = x[(cuts + m - 1) // m - 1] - y[(cuts + n - 1) // n - 1]
    return (weight[:, None] * gap.abs().pow(power)).sum(0)


def apart(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances [N,M] between rows."""
    return torch.cdist(x, y)


def between(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], block: int = 1024) -> float:
    """Mean of kernel(x_i, y_j) over all pairs, computed in blocks of rows."""
    total = sum((float(kernel(part, y).sum()) for part in torch.split(x, block)), 0.0)
    return total / (len(x) * len(y))


def within(x: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], block: int = 1024) -> float:
    """Mean of kernel(x_i, x_j) over pairs of different rows, computed in blocks of rows."""
    total = 0.0
    for start in range(0, len(x), block):
        table = kernel(x[start : start + block], x)
        table.diagonal(start).zero_()  # a row with itself
        total += float(table.sum())
    return total / (len(x) * (len(x) - 1))


def some(x: Tensor, rows: int, rng: Rng) -> Tensor:
    """At most ``rows`` rows, sampled without replacement."""
    return x if len(x) <= rows else x[rng.permutation(len(x))[:rows]]


# ---------------------------------------------------------------------------------------------------------- refusals


def sound(real: Tensor, made: Tensor) -> None:
    """Refuse samples of different shapes, or with values that are not finite."""
    require(
        real.shape[1:] == made.shape[1:],
        f"real data have shape {tuple(real.shape[1:])} and generated data {tuple(made.shape[1:])}, but a metric "
        "compares data of one shape; encode both with the same modality",
    )
    for what, x in (("real", real), ("generated", made)):
        require(
            len(x) > 0 and x.is_floating_point(),
            f"the {what} data are {x.dtype} of shape {tuple(x.shape)}, but metrics take floating-point tensors "
            "[N,*S] with N > 0; encode the data first",
        )
        bad = ~x.detach().flatten(1).isfinite().all(1)
        require(
            not bool(bad.any()),
            f"{int(bad.sum())} of {len(x)} {what} samples contain NaN or infinite values, the first at index "
            f"{int(bad.int().argmax())}, so they have no distance; "
            + ("remove them" if x is real else "check the model, increase the steps or lower the guidance scale"),
        )


def enough(metric: FeatureMetric, real: Tensor, made: Tensor) -> None:
    """Refuse fewer samples than the metric needs."""
    least, n = metric.least(real.shape[1]), min(len(real), len(made))
    require(
        n >= least,
        f"{type(metric).__name__} in {metric.features.name} of {real.shape[1]} features got {len(real)} real and "
        f"{len(made)} generated samples, but needs at least {least} of each; give more, or use Kernel() or Energy(), "
        "which need 2",
    )
