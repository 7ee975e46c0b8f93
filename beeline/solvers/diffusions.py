"""Noise processes and diffusion coefficients of stochastic solvers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng


class SeededNoise:
    """Base class of noise with a key or seeds; a subclass is a dataclass with the fields ``rng`` and ``seeds``."""

    rng: Rng
    seeds: tuple[int, ...]

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        rng: Rng = self.rng.fork(*names)
        return replace(self, rng=rng, seeds=tuple(int(s) for s in seeds))  # type: ignore[type-var]

    def for_rows(self, start: int, end: int) -> Any:
        if self.seeds:
            return replace(self, seeds=self.seeds[start:end])  # type: ignore[type-var]
        return replace(self, rng=self.rng.fork("rows", start))  # type: ignore[type-var]

    def standard_normal(self, rng: Rng, like: Tensor) -> Tensor:
        """Standard normal numbers [B,*S], row i from seed i if there are seeds."""
        require(
            not self.seeds or len(self.seeds) == len(like),
            f"{type(self).__name__} has {len(self.seeds)} seeds for a batch of {len(like)}; every sample needs its own "
            "seed: use Sampler.seeded, and Sampler.for_rows for a part of a batch",
        )
        return rng.rows(self.seeds, like) if self.seeds else rng.normal(like)


@dataclass(frozen=True)
class White(SeededNoise):
    """Independent noise in every step.

    z ~ N(0, I), keyed by the ends of the step;  with ``seeds`` the noise of a sample does not depend on its batch

    >>> White(Rng(0))(torch.zeros(2), torch.ones(2), torch.empty(2, 3)).shape
    torch.Size([2, 3])
    """

    rng: Rng
    seeds: tuple[int, ...] = ()  # one per sample, or none

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = "step") -> Tensor:
        t, s = host_times(t), host_times(s)
        if self.seeds and not _equal(t, s):  # times per sample: a row must not depend on those of the first
            rows = zip(self.seeds, t, s, like, strict=True)
            return torch.cat([self._fork(name, a, b).rows([seed], row[None]) for seed, a, b, row in rows])
        return self.standard_normal(self._fork(name, t[:1], s[:1]), like)

    def _fork(self, name: str | int, t: Tensor, s: Tensor) -> Rng:
        """The key of a step."""
        return self.rng.fork(name, *t.flatten().tolist(), *s.flatten().tolist())


@dataclass(frozen=True)
class Brownian(SeededNoise):
    """Increments of one Brownian motion, so that solutions converge pathwise as the number of steps increases.

    z = (W(s) - W(t)) / sqrt|s - t|,  W by bisection: W(middle) = mean of the ends + half sqrt(length) N(0, I)
    Assumes one time for the whole batch.  Times closer than 2^-depth are interpolated independently.
    Source: Levy's construction; Li et al. 2020, "Scalable Gradients for SDEs" (arXiv 2001.01328), virtual tree.

    >>> W, like = Brownian(Rng(0)), torch.empty(1, 2, dtype=torch.float64)
    >>> a, m, b = (torch.tensor([t], dtype=torch.float64) for t in (0.25, 0.5, 0.75))
    >>> bool(torch.allclose(W(a, b, like) * 0.5**0.5, W(a, m, like) * 0.5 + W(m, b, like) * 0.5))
    True
    """

    rng: Rng
    seeds: tuple[int, ...] = ()  # one per sample, or none
    depth: Count = 14  # bisections before the last bridge

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = "step") -> Tensor:
        t, s = host_times(t), host_times(s)
        start, end = float(t.flatten()[0]), float(s.flatten()[0])
        require(
            _equal(t, s),
            "Brownian got times that differ between samples; it is defined for one time per batch: use White, or equal "
            "times",
        )
        rng = self.rng.fork(name)
        step = self._at(rng, end, like) - self._at(rng, start, like)
        return step / math.sqrt(abs(end - start))

    def _at(self, rng: Rng, t: float, like: Tensor) -> Tensor:
        low, high = 0.0, 1.0
        below, above = torch.zeros_like(like), self.standard_normal(rng.fork("end"), like)
        if t in (low, high):
            return below if t == low else above
        for _ in range(self.depth):
            middle = (low + high) / 2
            here = (below + above) / 2 + math.sqrt(high - low) / 2 * self.standard_normal(rng.fork(middle), like)
            if t == middle:
                return here
            low, high, below, above = (low, middle, below, here) if t < middle else (middle, high, here, above)
        share = (t - low) / (high - low)
        spread = math.sqrt((t - low) * (high - t) / (high - low))
        return below + share * (above - below) + spread * self.standard_normal(rng.fork("leaf", t), like)


def _equal(t: Tensor, s: Tensor) -> bool:
    """Whether all samples take the same step."""
    return bool((t == t.flatten()[0]).all() and (s == s.flatten()[0]).all())


@dataclass(frozen=True)
class Fading:
    """A diffusion coefficient that decreases towards the data.

    g(t)^2 = 2 strength (1-t)^power;  with power 1 the drift on the straight path is v + strength (t v - x)
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), any diffusion after training.

    >>> Fading(3.0)(torch.tensor([0.5]))
    tensor([3.])
    """

    strength: float = 1.0  # 0 is the ODE; 1 to 4 is usual
    power: float = 1.0  # 0 is constant noise; larger values decrease earlier

    def __post_init__(self) -> None:
        require(
            self.strength >= 0 and self.power >= 0,
            f"Fading got strength={self.strength}, power={self.power}; g^2 must be non-negative and bounded: set both "
            "to 0 or more",
        )

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * (1 - t) ** self.power


@dataclass(frozen=True)
class Hump:
    """A diffusion coefficient that is zero at both ends.

    g(t)^2 = 2 strength sin(pi t)^2
    Source: Singh and Fischer 2024, "Stochastic Sampling from Deterministic Flow Models" (arXiv 2410.02217), by form.

    >>> Hump(1.0)(torch.tensor([0.5]))
    tensor([2.])
    """

    strength: float = 1.0  # 0 is the ODE

    def __post_init__(self) -> None:
        require(self.strength >= 0, f"Hump got strength={self.strength}; g^2 must be non-negative: set 0 or more")

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * torch.sin(math.pi * t) ** 2


@dataclass(frozen=True)
class Rectified:
    """The diffusion coefficient of rectified SDEs.

    g(t)^2 = 2 strength (1-t) / max(t, floor)
    Assumes the straight path; with strength 1 the SDE is the time reversal of the noising process.
    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified SDEs" (arXiv 2410.10792).

    >>> Rectified()(torch.tensor([0.5]))
    tensor([2.])
    """

    strength: float = 1.0  # 0 is the ODE
    floor: float = 0.02  # smallest t that is divided by

    def __post_init__(self) -> None:
        require(
            self.strength >= 0 and self.floor > 0,
            f"Rectified got strength={self.strength}, floor={self.floor}; g^2 must be non-negative and finite: set "
            "strength >= 0 and floor > 0",
        )

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * (1 - t) / t.clamp(min=self.floor)
