"""Joint distributions of the start and the end of a jump."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.progress import progress
from beeline.core.protocols.flows import TimeSampler
from beeline.core.protocols.maps import Span
from beeline.core.ranges import Count, Share, dataclass
from beeline.core.rng import Rng
from beeline.objectives.maps.splits import Part
from beeline.times.samplers import LogitNormal, Uniform


class SpansBase:
    """Base of distributions of jumps, with a share on the diagonal and a share towards the source.

    A subclass is a dataclass with the fields ``diagonal`` and ``backward`` that samples jumps towards the data in
    ``pairs``.  Jumps on the diagonal keep their start.  Their number is the same for the whole batch, so that nothing
    is computed twice or thrown away.
    """

    diagonal: float
    backward: float

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Starts and ends [n] with t <= s."""
        raise NotImplementedError

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Span:
        t, s = self.pairs(n, like, rng)
        if self.backward:
            turned = rng.fork("backward").uniform(n, like) < self.backward
            t, s = torch.where(turned, s, t), torch.where(turned, t, s)
        # rounded at random by a number on the host, so that microbatches of any size have the right share on average
        count = int(self.diagonal * n + float(rng.fork("diagonal").uniform(1, torch.empty(0, dtype=torch.float64))))
        return Span(t, torch.cat([t[:count], s[count:]]), min(count, n))


@dataclass(frozen=True)
class Ordered(SpansBase):
    """Two independent times in their order.

    t = min(a, b),  s = max(a, b),  a ~ first,  b ~ second
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447), with logit-normal times.

    >>> span = Ordered()(4, torch.empty(0), Rng(0))
    >>> bool((span.t <= span.s).all()), span.diagonal
    (True, 1)
    """

    first: TimeSampler = field(default_factory=Uniform)
    second: TimeSampler = field(default_factory=Uniform)
    diagonal: Share = 0.25  # share of jumps with t = s
    backward: Share = 0.0  # share of jumps from later to earlier times

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        a, b = self.first(n, like, rng.fork("first")), self.second(n, like, rng.fork("second"))
        return torch.minimum(a, b), torch.maximum(a, b)


@dataclass(frozen=True)
class Gapped(SpansBase):
    """A length of the jump, and a position of a jump of that length.

    s - t = g ~ gap,  t = (1 - g) q,  q ~ starts
    Long and short jumps have the frequencies of ``gap``, and near jumps exist at all times.
    Source: Sabour, Fidler and Kreis 2025, Align Your Flow (arXiv 2506.14603).

    >>> span = Gapped()(4, torch.empty(0), Rng(0))
    >>> bool((span.s <= 1).all())
    True
    """

    gap: TimeSampler = field(default_factory=lambda: LogitNormal(-0.8, 1.0))
    starts: TimeSampler = field(default_factory=Uniform)
    diagonal: Share = 0.25  # share of jumps with t = s
    backward: Share = 0.0  # share of jumps from later to earlier times

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        gap = self.gap(n, like, rng.fork("gap"))
        t = (1 - gap) * self.starts(n, like, rng.fork("starts"))
        return t, (t + gap).clamp(max=1)


@dataclass(frozen=True)
class FromStarts(SpansBase):
    """A start and a length of the jump; long jumps from early starts go to the end.

    s = min(t + g, 1),  t ~ starts,  g ~ gap;  s = 1 where t < early and s > late
    Intervals between early starts and ends after ``late`` have the highest variance of the target.
    Source: Zhang et al. 2025, MeanFlow on rectified trajectories (arXiv 2511.23342).

    >>> span = FromStarts()(4, torch.empty(0), Rng(0))
    >>> bool((span.t <= span.s).all())
    True
    """

    starts: TimeSampler = field(default_factory=Uniform)
    gap: TimeSampler = field(default_factory=lambda: LogitNormal(-0.8, 1.0))
    early: Share = 0.2
    late: Share = 0.6
    diagonal: Share = 0.75  # share of jumps with t = s
    backward: Share = 0.0  # share of jumps from later to earlier times

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        t = self.starts(n, like, rng.fork("starts"))
        s = (t + self.gap(n, like, rng.fork("gap"))).clamp(max=1)
        return t, torch.where((t < self.early) & (s > self.late), torch.ones_like(s), s)


@dataclass(frozen=True)
class ToEnd(SpansBase):
    """Jumps to the data end: the map is a consistency function.

    s = 1,  t = most q,  q ~ times
    Source: Song et al. 2023, "Consistency Models" (arXiv 2303.01469).

    >>> ToEnd()(2, torch.empty(0), Rng(0)).s
    tensor([1., 1.])
    """

    times: TimeSampler = field(default_factory=Uniform)
    most: Part = 1.0  # the latest start
    diagonal: Share = 0.0  # share of jumps with t = s
    backward: Share = 0.0  # share of jumps from the data to the time t

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        t = self.most * self.times(n, like, rng.fork("times"))
        return t, torch.ones_like(t)


@dataclass(frozen=True)
class FromNoise(SpansBase):
    """Jumps from the source: the map gives whole trajectories of a noise.

    t = 0,  s ~ times
    Source: Gu et al. 2023, BOOT (arXiv 2306.05544).

    >>> FromNoise()(2, torch.empty(0), Rng(0)).t
    tensor([0., 0.])
    """

    times: TimeSampler = field(default_factory=Uniform)
    diagonal: Share = 0.25  # share of jumps with t = s = 0
    backward: Share = 0.0  # share of jumps from the time s to the source

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        s = self.times(n, like, rng.fork("times"))
        return torch.zeros_like(s), s


@dataclass(frozen=True)
class Dyadic(SpansBase):
    """Jumps of the lengths 1, 1/2, 1/4, ... from multiples of their length.

    s - t = 2^-k,  k ~ U{0, ..., levels - 1},  t ~ U{0, 2^-k, ..., 1 - 2^-k}
    With ``rounds`` the shortest jumps are trained first: after a share p of the training k is at least
    (levels - 1) - floor(levels p), and half of the jumps have the newest length, as in progressive distillation.
    Source: Frans et al. 2024, "One Step Diffusion via Shortcut Models" (arXiv 2410.12557); rounds: Salimans and Ho 2022
    (arXiv 2202.00512).

    >>> Dyadic(1, diagonal=0.0)(2, torch.empty(0), Rng(0)).s
    tensor([1., 1.])
    """

    levels: Count = 7
    rounds: bool = False
    diagonal: Share = 0.75  # share of jumps with t = s
    backward: Share = 0.0  # share of jumps from later to earlier times

    def __post_init__(self) -> None:
        require(
            self.levels <= 20,
            f"Dyadic got levels={self.levels}; the shortest jump is 2^(1 - levels), which float32 times resolve to 20 "
            "levels: give 5 to 8",
        )

    def pairs(self, n: int, like: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        least = max(0, self.levels - 1 - int(self.levels * progress())) if self.rounds else 0
        u, newest, start = rng.fork("levels").fill(like.new_empty(3, n))
        k = least + (u * (self.levels - least)).floor().clamp(max=self.levels - 1 - least)
        if self.rounds:
            k = torch.where(newest < 0.5, float(least), k)
        count = 2.0**k
        t = (start * count).floor().minimum(count - 1) / count
        return t, (t + 1 / count).clamp(max=1)
