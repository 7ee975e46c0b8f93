"""Time samplers composed of others: stratified, antithetic, per frame, in pairs, learned, and by log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.flows import QuantileSampler, TimeSampler
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.paths.affine import AffinePath, Linear
from beeline.times.samplers import Uniform, clamp_to_open_interval


@dataclass(frozen=True)
class Stratified:
    """Stratified sampling of the times of a batch: one sample in each of n intervals of equal probability.

    t_i = F^-1((pi(i) + u_i) / n),  pi a random permutation
    Assumes a sampler with a quantile function.  Each t_i has the distribution of ``each``.
    Source: Kingma et al. 2021, "Variational Diffusion Models" (arXiv 2107.00630), low-discrepancy times.

    >>> Stratified(Uniform())(4, torch.empty(0), Rng(0)).sort().values.mul(4).int().tolist()
    [0, 1, 2, 3]
    """

    each: TimeSampler = field(default_factory=Uniform)  # one with a quantile function

    def __post_init__(self) -> None:
        _quantile(self.each, self)

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        u = (rng.fork("order").permutation(n).to(like.device, like.dtype) + rng.uniform(n, like)) / n
        return clamp_to_open_interval(_quantile(self.each, self)(clamp_to_open_interval(u)))

    def log_prob(self, t: Tensor) -> Tensor:
        return self.each.log_prob(t)


@dataclass(frozen=True)
class Antithetic:
    """Antithetic sampling of times: half of the batch at u, half at 1 - u.

    t_i = F^-1(u_i),  t_{i + n/2} = F^-1(1 - u_i)
    Assumes a sampler with a quantile function.  Each t_i has the distribution of ``each``.
    Source: Song, Meng and Ermon 2021 (arXiv 2010.02502), antithetic times in their public training code.

    >>> t = Antithetic(Uniform())(4, torch.empty(0), Rng(0))
    >>> t[:2] + t[2:]
    tensor([1., 1.])
    """

    each: TimeSampler = field(default_factory=Uniform)  # one with a quantile function

    def __post_init__(self) -> None:
        _quantile(self.each, self)

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        u = rng.uniform((n + 1) // 2, like)
        return clamp_to_open_interval(_quantile(self.each, self)(clamp_to_open_interval(torch.cat([u, 1 - u])[:n])))

    def log_prob(self, t: Tensor) -> Tensor:
        return self.each.log_prob(t)


@dataclass(frozen=True)
class Frames:
    """Independent times per frame, so that one model learns all patterns of clean and noisy frames.

    t [n, F],  each entry from ``each``; with probability ``clean`` a frame is at t = 1 (a given frame)
    Assumes data [B, F, ...] and a network that takes times [B, F].
    Source: Chen et al. 2024, "Diffusion Forcing" (arXiv 2407.01392); Song et al. 2025 (arXiv 2502.06764).

    >>> Frames(Uniform(), 3)(2, torch.empty(0), Rng(0)).shape
    torch.Size([2, 3])
    """

    each: TimeSampler = field(default_factory=Uniform)
    count: int = 1  # number of frames F, at least 1
    clean: float = 0.0  # probability of a given frame, in [0, 1)

    def __post_init__(self) -> None:
        require(
            self.count >= 1 and 0 <= self.clean < 1,
            f"Frames got count={self.count}, clean={self.clean}; both would leave no frame to learn: set count >= 1 "
            "and 0 <= clean < 1",
        )

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        t = self.each(n * self.count, like, rng.fork("each")).reshape(n, self.count)
        if not self.clean:
            return t
        return torch.where(rng.fork("clean").fill(t) < self.clean, torch.ones_like(t), t)

    def log_prob(self, t: Tensor) -> Tensor:
        """[n]: joint log density of the times of a datum; a given frame contributes its log probability."""
        free = self.each.log_prob(t) + math.log1p(-self.clean)
        if self.clean:
            free = torch.where(t == 1, math.log(self.clean), free)
        return free.sum(-1)


@dataclass(frozen=True)
class Continued:
    """One time for all frames but the first ones, which are given: training of continuations and plans.

    t [n, F],  1 for the first ``given`` frames and one time from ``each`` for all others;  with ``single`` one
    frame k <= given is learned at a time, 1 before it, 0 behind it, k uniform
    Assumes data [B, F, ...] and a network that takes times [B, F].
    Source: Ajay et al. 2022 (arXiv 2211.15657), the first state of a plan.

    >>> Continued(Uniform(), 3)(2, torch.empty(0), Rng(0))[:, 0]
    tensor([1., 1.])
    """

    each: TimeSampler = field(default_factory=Uniform)
    count: Count = 2  # number of frames F
    given: Count = 1  # frames at the start, fewer than all
    single: bool = False  # for Autoregressive, which samples one frame after another

    def __post_init__(self) -> None:
        require(
            self.given < self.count,
            f"Continued got count={self.count}, given={self.given}; no frame would be left to learn: give fewer",
        )

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        t = self.each(n, like, rng)[:, None].repeat(1, self.count)
        place = torch.arange(self.count, device=t.device)
        if not self.single:
            return torch.where(place < self.given, 1.0, t)
        k = rng.fork("frame").integers(self.given + 1, n).to(t.device)[:, None]
        return torch.where(place == k, t, (place < k).to(t.dtype))

    def log_prob(self, t: Tensor) -> Tensor:
        """[n]: log density of the time of the frames that are learned, and log probability of their place."""
        if not self.single:
            return self.each.log_prob(t[:, -1])
        learned = t.gather(1, (t == 1).sum(1, keepdim=True).clamp(max=self.count - 1))[:, 0]
        return self.each.log_prob(learned) - math.log(self.given + 1)


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of times t <= s, for objectives that train flow maps.

    (t, s) = (min, max) of two samples; with probability ``diagonal`` both are the first sample
    Assumes an objective that takes times [n, 2].
    Source: Geng et al. 2025, MeanFlow (arXiv 2505.13447).

    >>> t = Pairs(Uniform())(100, torch.empty(0), Rng(0))
    >>> bool((t[:, 0] <= t[:, 1]).all())
    True
    """

    each: TimeSampler = field(default_factory=Uniform)
    diagonal: float = 0.5  # probability of t = s, where a flow map is a velocity; 0.5 to 0.75 is usual

    def __post_init__(self) -> None:
        require(
            0 <= self.diagonal <= 1,
            f"Pairs got diagonal={self.diagonal}; a probability must be between 0 and 1: 0.5 is usual",
        )

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        t = torch.stack([self.each(n, like, rng.fork("first")), self.each(n, like, rng.fork("second"))], 1)
        same = rng.fork("diagonal").uniform(n, like) < self.diagonal
        return torch.where(same[:, None], t[:, :1], t.sort(1).values)

    def log_prob(self, t: Tensor) -> Tensor:
        """[n]: log density over the triangle for t < s, and along the diagonal for t = s."""
        first, second = self.each.log_prob(t[:, 0]), self.each.log_prob(t[:, 1])
        log = lambda share: math.log(share) if share > 0 else -math.inf  # noqa: E731
        off = first + second + math.log(2) + log(1 - self.diagonal)
        off = torch.where(t[:, 0] < t[:, 1], off, -math.inf)
        return torch.where(t[:, 0] == t[:, 1], first + log(self.diagonal), off)


@dataclass(frozen=True)
class Binned:
    """A piecewise constant density on K equal bins, for importance sampling by loss.

    p(t) = K mass_k in bin k of K
    ``refined`` computes the next density from losses by time.  The weight ByDensity(times, power=-1) keeps the
    objective of uniform times.
    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), importance-sampled times.

    >>> Binned((1.0, 3.0)).log_prob(torch.tensor([0.2, 0.7])).exp()
    tensor([0.5000, 1.5000])
    """

    mass: tuple[float, ...] = (1.0,)  # per bin, above 0; normalised on construction

    def __post_init__(self) -> None:
        total = sum(self.mass)
        require(
            len(self.mass) > 0 and all(m > 0 and math.isfinite(m) for m in self.mass),
            f"Binned got the masses {self.mass}; a bin of mass zero would never be sampled: use finite numbers above 0",
        )
        object.__setattr__(self, "mass", tuple(m / total for m in self.mass))

    def quantile(self, u: Tensor) -> Tensor:
        mass = torch.tensor(self.mass, dtype=torch.float64, device=u.device)
        edges = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
        edges[-1] = 1.0
        k = (torch.searchsorted(edges, u.double().contiguous(), right=True) - 1).clamp(0, len(mass) - 1)
        return ((k + (u.double() - edges[k]) / mass[k]) / len(mass)).to(u.dtype).clamp(0, 1)

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return self.quantile(rng.uniform(n, like))

    def log_prob(self, t: Tensor) -> Tensor:
        density = torch.tensor(self.mass, dtype=t.dtype, device=t.device) * len(self.mass)
        value = density[(t * len(self.mass)).long().clamp(0, len(self.mass) - 1)].log()
        return torch.where((t >= 0) & (t <= 1), value, -math.inf)

    def refined(self, t: Tensor, loss: Tensor, floor: float = 0.1) -> Binned:
        """The density proportional to the root mean square loss per bin, mixed with a uniform share ``floor``.

        ``t`` and ``loss`` [N] are times and per-sample losses (without weights over time).  A bin without samples
        keeps its mass.
        """
        count = len(self.mass)
        k = (t.double() * count).long().clamp(0, count - 1)
        hits = torch.zeros(count, dtype=torch.float64).index_add_(0, k, torch.ones(len(k), dtype=torch.float64))
        square = torch.zeros(count, dtype=torch.float64).index_add_(0, k, loss.double() ** 2)
        root = (square / hits.clamp(min=1)).sqrt()
        seen = hits > 0
        old = torch.tensor(self.mass, dtype=torch.float64)
        new = torch.where(seen, root / root.sum() * old[seen].sum(), old)
        return Binned(tuple(((1 - floor) * new / new.sum() + floor / count).tolist()))


@dataclass(frozen=True)
class NormalSNR:
    """Times with a normally distributed log signal-to-noise ratio, for any affine path.

    log(a(t)^2 / b(t)^2) ~ N(mean, std^2)
    Assumes an affine path.  On Linear() it is LogitNormal(mean/2, std/2).
    Source: Yao et al. 2024, FasterDiT (arXiv 2410.10356).

    >>> t = NormalSNR(Linear(), 0.0, 2.0)(5, torch.empty(0), Rng(0))
    >>> bool(((t > 0) & (t < 1)).all())
    True
    """

    path: AffinePath = field(default_factory=Linear)
    mean: float = 0.0  # nats; positive values are nearer to the data
    std: float = 2.0  # nats, above 0

    def __post_init__(self) -> None:
        require(self.std > 0, f"NormalSNR got std={self.std}; a standard deviation must be above 0: 2.0 is usual")

    def quantile(self, u: Tensor) -> Tensor:
        return time_of_snr(self.path, self.mean + self.std * torch.special.ndtri(u))

    def __call__(self, n: int, like: Tensor, rng: Rng) -> Tensor:
        return time_of_snr(self.path, self.mean + self.std * rng.normal(like.new_empty(n)))

    def log_prob(self, t: Tensor) -> Tensor:
        lam, slope = log_snr(self.path, t)
        z = (lam - self.mean) / self.std
        value = -z * z / 2 - math.log(self.std * math.sqrt(2 * math.pi)) + slope.log()
        return torch.where((t > 0) & (t < 1), value, -math.inf)


def log_snr(path: AffinePath, t: Tensor) -> tuple[Tensor, Tensor]:
    """log(a^2/b^2) at ``t`` inside (0, 1), in nats, and its derivative in t."""
    a, b, da, db = path.coefficients(t)
    return 2 * (a.log() - b.log()), 2 * (da / a - db / b)


def snr_log_prob(times: TimeSampler, path: AffinePath, lam: Tensor) -> Tensor:
    """Log density of the log signal-to-noise ratio ``lam`` for training times ``times`` on ``path``."""
    t = time_of_snr(path, lam)
    reached, slope = log_snr(path, t)
    value = times.log_prob(t) - slope.log()
    return torch.where((reached - lam).abs() <= 1e-3 * (1 + lam.abs()), value, -math.inf)  # a level of this path


def time_of_snr(path: AffinePath, lam: Tensor) -> Tensor:
    """The time in (0, 1) at which log(a^2/b^2) is ``lam``, or the nearest end if the path does not reach it."""
    return clamp_to_open_interval(path.time_of_ratio(torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()))


def _quantile(each: TimeSampler, whose: object) -> Callable[[Tensor], Tensor]:
    """The quantile function of a sampler; raises ValueError if it has none."""
    if not isinstance(each, QuantileSampler):
        raise BeelineError(
            f"{type(whose).__name__} got {type(each).__name__}, which has no method quantile(u); it transforms uniform "
            "numbers by that function: use Uniform(), LogitNormal(), UShaped(), Mode(), CosMap(), Binned() or "
            "NormalSNR()"
        )
    return each.quantile
