"""Distributions whose density, score and velocity field are known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Path
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond, expand_time, leaves
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath, Linear


class Marginal(NamedTuple):
    """The distribution of x = a x1 + b x0 at one point, with x0 standard Gaussian and independent of x1."""

    log_density: Tensor  # [B], log p(x) in nats
    score: Tensor  # [B,D], the gradient of log_density in x
    mean: Tensor  # [B,D], E[x1 | x]


class Distribution:
    """Base of exact distributions.  A subclass gives ``dim``, ``sample_labelled``, ``marginal`` and ``moments``.

    For every affine path and an independent Gaussian source, ``marginal`` gives p_t(x), grad log p_t(x) and
    v(x, t) = a' E[x1 | x] - b b' grad log p_t(x), which is finite at all times.
    """

    @property
    def dim(self) -> int:
        """D, the number of coordinates."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """Number of labels, 0 for none; as a condition this number is the null label."""
        return 0

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        """The conditions that a network is built for."""
        return {"label": {"classes": self.classes}} if self.classes else {}

    def sample_labelled(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        """(samples [n,D] in float64, labels [n] or None), of one label where it is given."""
        raise NotImplementedError

    def marginal(self, x: Tensor, a: Tensor, b: Tensor, cond: Cond = None) -> Marginal:
        """Log-density, score and posterior mean at x [B,D] = a x1 + b x0, with a and b [B]."""
        raise NotImplementedError

    def moments(self) -> tuple[Tensor, Tensor]:
        """The exact mean [D] and covariance [D,D], in float64."""
        raise NotImplementedError

    def sample(self, n: int, rng: Rng, *, label: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """[n,D] independent samples, of one ``label`` where it is given, in torch's default dtype."""
        return self._samples(n, rng, label)[0].to(dtype or torch.get_default_dtype())

    def batch(self, n: int, rng: Rng, *, dtype: torch.dtype | None = None) -> Batch:
        """The same samples as ``sample``, with their labels as the condition ``label`` where there are labels."""
        x, labels = self._samples(n, rng, None)
        return Batch(x.to(dtype or torch.get_default_dtype()), cond=None if labels is None else {"label": labels})

    def _samples(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        require(isinstance(n, int) and n >= 1, f"n={n!r} is no number of samples; give an integer of 1 or more")
        require(
            label is None or 0 <= label < self.classes,
            f"label={label}, but {type(self).__name__} has {self.classes} labels; "
            + (f"give one of 0 .. {self.classes - 1}, or None for all" if self.classes else "leave it out"),
        )
        return self.sample_labelled(n, rng, label)

    def log_prob(self, x: Tensor, cond: Cond = None) -> Tensor:
        """log p(x) of x [B,D], in nats, [B]."""
        x = self._fit(x)
        one = torch.ones_like(x[:, 0])
        return self.marginal(x, one, torch.zeros_like(one), cond).log_density

    def density(self, x: Tensor, t: Tensor | float, path: Path | None = None, cond: Cond = None) -> Tensor:
        """p_t(x) [B] of x [B,D]: the density of a x1 + b x0 at time ``t`` ([] or [B]) of ``path``."""
        return self.log_density(x, t, path, cond).exp()

    def log_density(self, x: Tensor, t: Tensor | float, path: Path | None = None, cond: Cond = None) -> Tensor:
        """log p_t(x) [B], in nats."""
        return self._at(x, t, affine(path), cond)[0].log_density

    def score(self, x: Tensor, t: Tensor | float = 1.0, path: Path | None = None, cond: Cond = None) -> Tensor:
        """grad log p_t(x) [B,D]."""
        return self._at(x, t, affine(path), cond)[0].score.reshape(x.shape)

    def field(self, path: Path | None = None) -> ExactField:
        """The exact velocity field on an affine ``path`` (Linear() by default)."""
        return ExactField(self, affine(path))

    def flow(self, path: Path | None = None) -> Flow:
        """The exact field as a flow from Gaussian noise."""
        return Flow(self.field(path), affine(path))

    def _at(self, x: Tensor, t: Tensor | float, path: AffinePath, cond: Cond) -> tuple[Marginal, Tensor]:
        flat = self._fit(x)
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        require(
            t.ndim < 2 and t.shape in ((), x.shape[:1]),
            f"the times have shape {tuple(t.shape)} and the states {tuple(x.shape)}; give one time per sample, [B], or "
            "one for all",
        )
        t = t if t.ndim else t.repeat(len(x))
        return self.marginal(flat, path.a(t), path.b(t), cond), t

    def _fit(self, x: Tensor) -> Tensor:
        require(
            x.ndim >= 2 and math.prod(x.shape[1:]) == self.dim and x.is_floating_point(),
            f"x is {x.dtype} of shape {tuple(x.shape)}, but {type(self).__name__} has {self.dim} coordinates; give "
            f"floating-point numbers [B,{self.dim}]",
        )
        return x.flatten(1)


@dataclass(frozen=True)
class ExactField:
    """The exact velocity field of a distribution on an affine path.

    v(x, t) = a' E[x1 | x_t = x] - b b' grad log p_t(x)
    Assumes an independent Gaussian source.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), equation 2.10 and the score's.

    >>> from beeline.data.distributions.mixtures import Gaussian
    >>> Gaussian((0.0, 0.0)).field()(torch.ones(1, 2), torch.tensor([0.5]))
    tensor([[0., 0.]])
    """

    distribution: Distribution
    path: AffinePath

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        known, t = self.distribution._at(x, t, self.path, cond)
        slope = expand_time(self.path.coefficients(t)[2], known.mean)
        return (slope * known.mean - expand_time(self.path.half_variance_slope(t), known.mean) * known.score).reshape(
            x.shape
        )


def affine(path: Path | None) -> AffinePath:
    """The path, or Linear() for None; other than affine paths are refused."""
    path = Linear() if path is None else path
    require(
        isinstance(path, AffinePath),
        f"the path is {type(path).__name__}, but exact velocities are known on affine paths x_t = a(t) x1 + b(t) x0 "
        "only; take Linear() or another affine path",
    )
    assert isinstance(path, AffinePath)
    return path


def choose(weights: Tensor, n: int, rng: Rng) -> Tensor:
    """[n] indices with probabilities proportional to ``weights`` (float64, non-negative)."""
    edges = weights.cumsum(0)
    k = torch.searchsorted(edges, rng.uniform(n, weights) * edges[-1], right=True)
    return k.clamp(max=int(weights.nonzero().max()))


def numbers(values: Any, owner: str, name: str, ndim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Finite float64 numbers with ``ndim`` dimensions; ValueError names ``owner`` and ``name``."""
    try:
        array = np.asarray(plain(values), dtype=np.float64)
    except (TypeError, ValueError):
        array = np.full((0,) * ndim, np.nan)
    require(
        array.ndim == ndim and array.size > 0 and bool(np.isfinite(array).all()),
        f"{owner} got {name}={values!r}; it needs finite numbers in {ndim} dimension(s), with rows of equal length: "
        "check the nesting and look for NaN",
    )
    return array


def label_of(cond: Cond) -> Tensor | None:
    """The labels in a condition: the bare tensor, or its only leaf ``label``."""
    named = dict(leaves(cond))
    require(
        set(named) <= {"label"} or set(named) == {""},
        f"the conditions are {sorted(named)}, but an exact distribution takes labels only; "
        'pass cond={"label": labels}, or the labels alone',
    )
    return next(iter(named.values()), None)


def allowed(owner: Distribution, labels: Tensor | None, cond: Cond, n: int) -> Tensor | None:
    """[B,K] whether a component has the label of a sample; None without labels in ``cond``."""
    label = label_of(cond)
    if label is None:
        return None
    require(
        labels is not None,
        f"{type(owner).__name__} was given a label, but its components have none; leave cond out, or construct "
        "it with labels=",
    )
    assert labels is not None
    good = (
        label.shape == (n,) and not label.is_floating_point() and bool(((label >= 0) & (label <= owner.classes)).all())
    )
    require(
        good,
        f"the labels are {label.dtype} of shape {tuple(label.shape)}, starting with {label.flatten()[:4].tolist()}, "
        f"for a batch of {n} and {owner.classes} classes; pass integers [B] from 0 to {owner.classes - 1}, or "
        f"{owner.classes} for no condition",
    )
    return (labels.to(label.device) == label[:, None]) | (label == owner.classes)[:, None]


def plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else values


def tuples(array: np.ndarray[Any, Any]) -> Any:
    """An array as nested tuples of floats: plain, comparable, hashable."""

    def freeze(value: Any) -> Any:
        return tuple(freeze(v) for v in value) if isinstance(value, Sequence) else float(value)

    return freeze(array.tolist())
