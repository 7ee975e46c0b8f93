"""Step schedules: the times between which a solver takes its steps.

A schedule called with (steps, start=0., end=1.) returns [steps+1] strictly monotone times from ``start`` to ``end``,
rising or falling, in torch's default dtype.  It raises ValueError for fewer than one step, for an empty interval and
for one outside [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Schedule, TimeSampler
from beeline.core.ranges import dataclass


class Warped:
    """Base class of schedules t = warp(u) with evenly spaced u.

    On a part of [0, 1] the step density is that of the whole schedule there.  A falling schedule has the nodes of the
    rising one, so that inversion takes the same steps.  A subclass defines ``warp`` and its inverse ``unwarp`` on
    [0, 1].
    """

    def warp(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def unwarp(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        check_interval(steps, start, end)
        u0, u1 = self.unwarp(torch.tensor([start, end], dtype=torch.float64))
        times = self.warp(u0 + (u1 - u0) * torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        times[0], times[-1] = start, end
        return check_monotone(times.to(torch.get_default_dtype()), self)


@dataclass(frozen=True)
class Uniform(Warped):
    """Equal steps.

    t_i = i / steps
    Source: Liu, Gong and Liu 2022 (arXiv 2209.03003).

    >>> Uniform()(4)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """

    def warp(self, u: Tensor) -> Tensor:
        return u

    def unwarp(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class Shifted(Warped):
    """The timestep shift of Stable Diffusion 3: smaller steps near the source for a shift above 1.

    t = u / (u + shift (1 - u)),  u evenly spaced;  equivalently sigma' = shift sigma / (1 + (shift - 1) sigma)
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), equation 23.

    >>> Shifted(3.0)(2)
    tensor([0.0000, 0.2500, 1.0000])
    """

    shift: float = 3.0  # 1 is uniform; 3 for SD3 at 1024 pixels

    def __post_init__(self) -> None:
        require(self.shift > 0, f"Shifted got shift={self.shift}; a shift must be above 0: 1 is uniform, 3 is usual")

    def warp(self, u: Tensor) -> Tensor:
        return u / (u + self.shift * (1 - u))

    def unwarp(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 - t + self.shift * t)


@dataclass(frozen=True)
class FluxShifted(Warped):
    """The resolution-dependent shift of FLUX, computed from the number of image tokens.

    Shifted(exp(mu)),  mu linear in tokens: 0.5 at 256, 1.15 at 4096
    Source: Black Forest Labs 2024, FLUX.1, sampling code; the form of Esser et al. 2024 (arXiv 2403.03206).

    >>> round(FluxShifted(4096).shift, 3)
    3.158
    """

    tokens: int  # tokens of one image, at least 1; height x width / 16^2 for FLUX

    def __post_init__(self) -> None:
        require(
            self.tokens >= 1,
            f"FluxShifted got tokens={self.tokens}; an image has at least one token: set height x width / 256",
        )

    @property
    def shift(self) -> float:
        return math.exp(0.5 + (1.15 - 0.5) * (self.tokens - 256) / (4096 - 256))

    def warp(self, u: Tensor) -> Tensor:
        return Shifted(self.shift).warp(u)

    def unwarp(self, t: Tensor) -> Tensor:
        return Shifted(self.shift).unwarp(t)


@dataclass(frozen=True)
class ResolutionShifted(Warped):
    """The shift of Stable Diffusion 3 for another resolution, which keeps the noise of pixel averages equal.

    Shifted(base sqrt(pixels / reference))
    Assumes that the model was trained with shift ``base`` at ``reference`` pixels.
    Source: Esser et al. 2024, Stable Diffusion 3 (arXiv 2403.03206), equation 23.

    >>> ResolutionShifted(2048 * 2048).shift
    6.0
    """

    pixels: int  # height x width of the samples
    base: float = 3.0  # shift at the reference resolution, 3 for SD3
    reference: int = 1024 * 1024  # height x width of the reference resolution

    def __post_init__(self) -> None:
        require(
            self.pixels >= 1 and self.reference >= 1 and self.base > 0,
            f"ResolutionShifted got pixels={self.pixels}, base={self.base}, reference={self.reference}; all must be "
            "above 0: set the height x width of the samples",
        )

    @property
    def shift(self) -> float:
        return self.base * math.sqrt(self.pixels / self.reference)

    def warp(self, u: Tensor) -> Tensor:
        return Shifted(self.shift).warp(u)

    def unwarp(self, t: Tensor) -> Tensor:
        return Shifted(self.shift).unwarp(t)


@dataclass(frozen=True)
class Power(Warped):
    """Polynomial schedule: smaller steps near the data for a power above 1, near the source below 1.

    t = 1 - (1-u)^power;  2 is the quadratic schedule
    Source: Song, Meng and Ermon 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), quadratic steps.

    >>> Power(2.0)(2)
    tensor([0.0000, 0.7500, 1.0000])
    """

    power: float = 2.0  # 1 is uniform

    def __post_init__(self) -> None:
        require(self.power > 0, f"Power got power={self.power}; times must increase: set a power above 0")

    def warp(self, u: Tensor) -> Tensor:
        return 1 - (1 - u) ** self.power

    def unwarp(self, t: Tensor) -> Tensor:
        return 1 - (1 - t) ** (1 / self.power)


@dataclass(frozen=True)
class Cosine(Warped):
    """Smaller steps near both ends.

    t = sin(pi u / 2)^2
    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), cosine schedule.

    >>> Cosine()(2)
    tensor([0.0000, 0.5000, 1.0000])
    """

    def warp(self, u: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * u) ** 2

    def unwarp(self, t: Tensor) -> Tensor:
        return 2 / math.pi * torch.asin(t.clamp(0, 1).sqrt())


@dataclass(frozen=True)
class Karras(Warped):
    """The schedule of EDM: even steps in a root of the noise level, extended to t = 0 and t = 1.

    sigma = (high^(1/rho) + u (low^(1/rho) - high^(1/rho)))^rho,  t = 1 / (1 + sigma)
    Assumes the straight path, on which sigma = (1-t)/t.
    Source: Karras et al. 2022 (arXiv 2206.00364), equation 5.

    >>> [round(t, 3) for t in Karras()(3).tolist()]
    [0.0, 0.093, 0.68, 1.0]
    """

    low: float = 0.002  # smallest noise level, above 0
    high: float = 80.0  # largest noise level
    rho: float = 7.0  # larger values give more steps at low noise

    def __post_init__(self) -> None:
        require(
            0 < self.low < self.high and self.rho > 0,
            f"Karras got low={self.low}, high={self.high}, rho={self.rho}; noise levels must be positive and "
            "increasing: set 0 < low < high and rho > 0",
        )

    def warp(self, u: Tensor) -> Tensor:
        high, low = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        return 1 / (1 + (high + u * (low - high)) ** self.rho)

    def unwarp(self, t: Tensor) -> Tensor:
        high, low = self.high ** (1 / self.rho), self.low ** (1 / self.rho)
        sigma = ((1 - t) / t.clamp(min=1e-12)).clamp(self.low, self.high)
        return (sigma ** (1 / self.rho) - high) / (low - high)


@dataclass(frozen=True)
class Quantiles(Warped):
    """Steps at the quantiles of the training times.

    t_i = F^-1(i / steps),  F the distribution function of the time sampler
    Assumes a sampler with a density on (0, 1); F is computed on a grid of 4096 cells.

    >>> from beeline.times.samplers import UShaped
    >>> Quantiles(UShaped(4.0))(2)
    tensor([0.0000, 0.5000, 1.0000])
    """

    times: TimeSampler

    def warp(self, u: Tensor) -> Tensor:
        grid, mass = self._table()
        return interpolate(mass, grid, u)

    def unwarp(self, t: Tensor) -> Tensor:
        grid, mass = self._table()
        return interpolate(grid, mass, t)

    def _table(self) -> tuple[Tensor, Tensor]:
        cells = 4096
        middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        density = self.times.log_prob(middle).exp()
        require(
            bool(density.isfinite().all()) and float(density.sum()) > 0,
            f"Quantiles got {self.times}, which has no density on (0, 1); quantiles of it are undefined: use a "
            "continuous distribution such as LogitNormal()",
        )
        # a lower bound keeps the quantile function continuous where the density is zero
        density = density.clamp(min=1e-6 * float(density.max()))
        mass = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0) / density.sum()])
        return torch.linspace(0, 1, cells + 1, dtype=torch.float64), mass


@dataclass(frozen=True)
class Windows:
    """Equal time windows with the same inner schedule in each, for piecewise straight flows.

    window k of K covers [k/K, (k+1)/K] with steps/K steps of ``inner``, scaled to it
    Assumes that the number of steps is a multiple of the number of windows.
    Source: Yan et al. 2024, "PeRFlow" (arXiv 2405.07510).

    >>> Windows(2)(4)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """

    count: int = 4  # number of windows, at least 1
    inner: Schedule = Uniform()

    def __post_init__(self) -> None:
        require(
            self.count >= 1, f"Windows got count={self.count}; there must be a window: set the number used in training"
        )

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        check_interval(steps, start, end)
        low, high = min(start, end), max(start, end)
        edges = [k / self.count for k in range(self.count + 1)]
        parts = [(max(a, low), min(b, high)) for a, b in zip(edges, edges[1:], strict=False) if b > low and a < high]
        require(
            steps % len(parts) == 0,
            f"Windows got steps={steps} for {len(parts)} windows between {start} and {end}; each window needs the same "
            f"number of steps: set a multiple of {len(parts)}",
        )
        each = steps // len(parts)
        pieces = [a + (b - a) * self.inner(each).double()[:-1] for a, b in parts]
        times = torch.cat([*pieces, torch.tensor([high], dtype=torch.float64)])
        return check_monotone((times if start < end else times.flip(0)).to(torch.get_default_dtype()), self)


@dataclass(frozen=True)
class Explicit:
    """A given list of times, such as a fitted schedule, scaled linearly to another interval.

    t_i = values_i
    Assumes steps = len(values) - 1.

    >>> Explicit((0.0, 0.3, 1.0))(2)
    tensor([0.0000, 0.3000, 1.0000])
    """

    values: tuple[float, ...]  # strictly rising, from 0 to 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        rising = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        require(
            len(self.values) >= 2 and rising and self.values[0] >= 0 and self.values[-1] <= 1,
            f"Explicit got the times {self.values}; they must be strictly increasing in [0, 1], at least two: sort "
            "them (they are reversed automatically for inversion)",
        )

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        check_interval(steps, start, end)
        require(
            steps == len(self.values) - 1,
            f"Explicit got steps={steps}, but its times define {len(self.values) - 1} steps; "
            f"set steps={len(self.values) - 1}, or other times",
        )
        values = torch.tensor(self.values, dtype=torch.float64)
        if start > end:
            values = values.flip(0)
        times = start + (end - start) * (values - values[0]) / (values[-1] - values[0])
        whole = (float(values[0]), float(values[-1])) == (start, end)
        return check_monotone((values if whole else times).to(torch.get_default_dtype()), self)


def check_interval(steps: int, start: float, end: float) -> None:
    """Raise ValueError for less than one step, an empty interval, or times outside [0, 1]."""
    require(
        isinstance(steps, int) and steps >= 1,
        f"a schedule got steps={steps!r}; it needs at least one step: set an integer from 1",
    )
    require(
        0 <= start <= 1 and 0 <= end <= 1 and start != end,
        f"a schedule got the interval from {start} to {end}, which is empty or outside [0, 1]; t = 0 is the source and "
        "t = 1 the data: set two different times in [0, 1]",
    )


def check_monotone(times: Tensor, schedule: object) -> Tensor:
    """Return the times; raises ValueError unless they are strictly monotone."""
    steps = times.diff()
    require(
        bool((steps > 0).all() or (steps < 0).all()),
        f"{schedule} gives times that are not strictly monotone: {times.tolist()}; neighbouring times round to one "
        "number: use fewer steps or a less extreme schedule",
    )
    return times


def interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Piecewise linear interpolation of (x, y), with increasing x, at ``at``."""
    at = at.to(x.dtype)
    right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    share = (at - x[left]) / (x[right] - x[left])
    return y[left] + share * (y[right] - y[left])
