"""What a law is: its posterior, and the density, score and velocity that follow from it."""

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


class Moments(NamedTuple):
    """What is known of x1 when x = a x1 + b x0 was seen, with x0 standard Gaussian and independent."""

    log_density: Tensor  # [B], of x, in nats
    score: Tensor  # [B,D], the gradient of log_density in x
    mean: Tensor  # [B,D], E[x1 | x]


class Distribution:
    """A law with everything known.  A subclass gives ``draw``, ``posterior``, ``moments`` and its size ``dim``.

    From the posterior follow, for every affine path and a Gaussian source coupled independently,
    p_t(x), grad log p_t(x) and v(x, t) = a' E[x1 | x] - b b' grad log p_t(x); the last has no singular time.
    """

    @property
    def dim(self) -> int:
        """D, the number of coordinates."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """How many labels the law has, 0 without any; as a condition this number is the null label."""
        return 0

    @property
    def conditions(self) -> dict[str, dict[str, int]]:
        """The conditions in the plain form that networks take."""
        return {"label": {"classes": self.classes}} if self.classes else {}

    def draw(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        """([n,D] float64 samples, [n] labels or None), of one label where it is given."""
        raise NotImplementedError

    def posterior(self, x: Tensor, a: Tensor, b: Tensor, cond: Cond = None) -> Moments:
        """Density, score and posterior mean at x [B,D] = a x1 + b x0, with a and b [B]."""
        raise NotImplementedError

    def moments(self) -> tuple[Tensor, Tensor]:
        """The exact mean [D] and covariance [D,D], in float64."""
        raise NotImplementedError

    def sample(self, n: int, rng: Rng, *, label: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """[n,D] independent samples, of one ``label`` where it is given, in torch's default dtype."""
        return self._draw(n, rng, label)[0].to(dtype or torch.get_default_dtype())

    def batch(self, n: int, rng: Rng, *, dtype: torch.dtype | None = None) -> Batch:
        """The samples that ``sample`` gives, with their labels as the condition ``label`` where the law has some."""
        x, labels = self._draw(n, rng, None)
        return Batch(x.to(dtype or torch.get_default_dtype()), cond=None if labels is None else {"label": labels})

    def _draw(self, n: int, rng: Rng, label: int | None) -> tuple[Tensor, Tensor | None]:
        require(
            isinstance(n, int) and n >= 1, f"{n!r} samples were asked of a law; give a whole number of at least one"
        )
        require(
            label is None or 0 <= label < self.classes,
            f"label {label} was asked of a law with {self.classes} labels; "
            + (f"give one of 0 .. {self.classes - 1}, or None for all" if self.classes else "leave it out"),
        )
        return self.draw(n, rng, label)

    def log_prob(self, x: Tensor, cond: Cond = None) -> Tensor:
        """log p(x) of x [B,D], in nats, [B]."""
        x = self._fit(x)
        one = torch.ones_like(x[:, 0])
        return self.posterior(x, one, torch.zeros_like(one), cond).log_density

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

    def _at(self, x: Tensor, t: Tensor | float, path: AffinePath, cond: Cond) -> tuple[Moments, Tensor]:
        flat = self._fit(x)
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        require(
            t.ndim < 2 and t.shape in ((), x.shape[:1]),
            f"a law was asked at times of shape {tuple(t.shape)} for a state of {tuple(x.shape)}; "
            "give one time per sample, [B], or one for all",
        )
        t = t if t.ndim else t.repeat(len(x))
        return self.posterior(flat, path.a(t), path.b(t), cond), t

    def _fit(self, x: Tensor) -> Tensor:
        require(
            x.ndim >= 2 and math.prod(x.shape[1:]) == self.dim and x.is_floating_point(),
            f"a law over {self.dim} coordinates was asked about {x.dtype} of shape {tuple(x.shape)}; "
            f"give floating point numbers [B,{self.dim}]",
        )
        return x.flatten(1)


@dataclass(frozen=True)
class ExactField:
    """The velocity of a law on a path, exactly.

    v(x, t) = a' E[x1 | x_t = x] - b b' grad log p_t(x)
    Assumes a Gaussian source, coupled independently.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), equation 2.10 and the score's.

    >>> from beeline.data.distributions.mixtures import Gaussian
    >>> Gaussian((0.0, 0.0)).field()(torch.ones(1, 2), torch.tensor([0.5]))
    tensor([[0., 0.]])
    """

    law: Distribution
    path: AffinePath

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        known, t = self.law._at(x, t, self.path, cond)
        slope = expand_time(self.path.coefficients(t)[2], known.mean)
        return (slope * known.mean - expand_time(self.path.half_variance_slope(t), known.mean) * known.score).reshape(
            x.shape
        )


def affine(path: Path | None) -> AffinePath:
    """The affine path on which a law is asked about; straight when none is named."""
    path = Linear() if path is None else path
    require(
        isinstance(path, AffinePath),
        f"the exact velocity of a law was asked for on {type(path).__name__}; it is known on affine paths "
        "x_t = a(t) x1 + b(t) x0 only: take Linear() or another of them",
    )
    assert isinstance(path, AffinePath)
    return path


def choose(weights: Tensor, n: int, rng: Rng) -> Tensor:
    """[n] indices, i as often as weights[i] says (float64, non-negative, of any sum)."""
    edges = weights.cumsum(0)
    k = torch.searchsorted(edges, rng.uniform(n, weights) * edges[-1], right=True)
    return k.clamp(max=int(weights.nonzero().max()))


def numbers(values: Any, owner: str, name: str, ndim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Finite numbers of ``ndim`` dimensions, or a refusal in the name of their owner."""
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
    """The label in a condition that is a bare tensor, or a tree with the one leaf ``label``."""
    named = dict(leaves(cond))
    require(
        set(named) <= {"label"} or set(named) == {""},
        f"a law was given the conditions {sorted(named)}; it knows the label of a component only: "
        'pass cond={"label": labels}, or the labels alone',
    )
    return next(iter(named.values()), None)


def allowed(law: Distribution, labels: Tensor | None, cond: Cond, n: int) -> Tensor | None:
    """[B,K] whether a component belongs to the label of a sample, or None when all do."""
    label = label_of(cond)
    if label is None:
        return None
    require(
        labels is not None,
        f"{type(law).__name__} was given a label, but its components have none; "
        "leave cond out, or make the law with labels=",
    )
    assert labels is not None
    good = label.shape == (n,) and not label.is_floating_point() and bool(((label >= 0) & (label <= law.classes)).all())
    require(
        good,
        f"labels of {label.dtype} {tuple(label.shape)} from {label.flatten()[:4].tolist()} on were given to a law of "
        f"{law.classes} classes for a batch of {n}; pass whole numbers [B] from 0 to {law.classes - 1}, "
        f"or {law.classes} for no condition",
    )
    return (labels.to(label.device) == label[:, None]) | (label == law.classes)[:, None]


def plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else values


def tuples(array: np.ndarray[Any, Any]) -> Any:
    """An array as nested tuples of floats: plain, comparable, hashable."""

    def freeze(value: Any) -> Any:
        return tuple(freeze(v) for v in value) if isinstance(value, Sequence) else float(value)

    return freeze(array.tolist())
