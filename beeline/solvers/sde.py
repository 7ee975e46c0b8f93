"""Stochastic solvers, which add noise and preserve the marginal distributions of the flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times, map_times
from beeline.core.protocols.flows import Diffusion, NoiseProcess, Solver, SolverTraits
from beeline.core.ranges import dataclass
from beeline.core.types import Dynamics, expand_time
from beeline.paths.affine import AffinePath, Linear
from beeline.solvers.diffusions import Fading
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.solvers.wrappers import SolverBase, SolverWrapper


class Trace(NamedTuple):
    """The memory of a stochastic run: log-probability of its steps in nats, [B]."""

    log_prob: Tensor
    inner: Any = None


class StochasticWrapper(SolverWrapper):
    """Base class of stochastic solvers around another one, with seeds for the noise of both.

    A subclass is a dataclass with the fields ``solver``, ``noise`` and ``path``.
    """

    noise: NoiseProcess
    path: AffinePath

    @property
    def own_traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), score=True, stochastic=True)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return replace(super().with_seeds(seeds, *names), noise=self.noise.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return replace(super().for_rows(start, end), noise=self.noise.for_rows(start, end))


class MemorylessInner(StochasticWrapper):
    """Base class of stochastic solvers whose inner solver has no memory, because noise changes the state in between."""

    def init_memory(self, times: Tensor) -> Any:
        return None


@dataclass(frozen=True)
class EulerMaruyama(SolverBase):
    """Euler-Maruyama for the SDE with the marginal distributions of the flow.

    dx = (v + g^2/2 score) dt + g dW,  backwards dx = (v - g^2/2 score) dt + g dW;  v and score at (x, t), g at t
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.  A step that ends at b = 0 (the
    data) adds no noise.  The log-probability of the trajectory, for reinforcement learning, is in the memory
    (``integrate(..., done=...)``); ``log_prob`` computes that of one step.
    Source: Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" (arXiv 2303.08797).

    >>> from beeline.solvers.diffusions import White
    >>> from beeline.core.rng import Rng
    >>> solver = EulerMaruyama(White(Rng(0)), Fading(0.0))
    >>> solver.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: NoiseProcess
    diffusion: Diffusion = field(default_factory=Fading)
    path: AffinePath = field(default_factory=Linear)  # the flow's
    heun: bool = False  # average the drift at both ends, with the same noise: two evaluations, weak order two
    order = 1

    @property
    def traits(self) -> SolverTraits:
        return SolverTraits(paths=(self.path,), score=True, stochastic=True)

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> Any:
        return replace(self, noise=self.noise.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> Any:
        return replace(self, noise=self.noise.for_rows(start, end))

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        drift = self._drift(f, x, t, t, s)
        spread = self._spread(x, t, s)
        push = spread * self.noise(t, s, x)
        mean = torch.addcmul(x, expand_time(s - t, x), drift)
        log_prob = torch.zeros_like(t.flatten(1)[:, 0] if t.ndim > 1 else t) if memory is None else memory.log_prob
        new = mean + push
        if self.heun and bool((self._variance(*map(host_times, (t, t, s))) > 0).all()):
            new = torch.addcmul(x, expand_time(s - t, x), (drift + self._drift(f, new, s, t, s)) / 2) + push
        return new, Trace(log_prob + _log_normal(push, spread))

    def log_prob(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
        """log p(x_s | x) in nats [B] of one step, differentiable in the field; 0 for a step that adds no noise."""
        require(
            not self.heun,
            "log_prob was called on EulerMaruyama(heun=True); the density of its steps is not normal: use heun=False "
            "for sampling and log_prob",
        )
        drift = self._drift(f, x, t, t, s)
        mean = torch.addcmul(x, expand_time(s - t, x), drift)
        return _log_normal(x_s - mean, self._spread(x, t, s))

    def _drift(self, f: Dynamics, x: Tensor, at: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The drift at ``at``, an end of the step from t to s."""
        v = f(x, at)
        if not bool((self._variance(*map(host_times, (at, t, s))) > 0).any()):
            return v
        half = torch.sign(s - t) * self._variance(at, t, s) / 2
        inside = torch.where(self._noisy(t, s), at, 0.5)  # any time where the score has weight zero
        return v + expand_time(half, x) * self.path.score(x, v, inside)

    def _spread(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Standard deviation of the noise of a step, broadcastable to x."""
        return expand_time((self._variance(t, t, s) * (s - t).abs()).sqrt(), x)

    def _variance(self, at: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """g(at)^2, or zero for a step from t to s without noise."""
        return torch.where(self._noisy(t, s), self.diffusion(at), 0.0)

    def _noisy(self, t: Tensor, s: Tensor) -> Tensor:
        return (self.path.b(t) > 0) & (self.path.b(s) > 0)


@dataclass(frozen=True)
class Overshoot(MemorylessInner):
    """Overshooting: an ODE step beyond the end of the step, then exact noising back to it.

    o = min(1, s + strength (s - t) b_s),  x_o by the solver,  x_s = (a_s/a_o) x_o + sqrt(b_s^2 - (a_s b_o/a_o)^2) z
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.  The noising adds no error to
    that of the inner solver.  ``full`` always uses o = 1, the stochastic sampling of diffusers; it treats the mean
    datum as a sample and is biased at any number of steps.
    Source: Hu et al. 2024, "AMO Sampler: Enhancing Text Rendering with Overshooting" (arXiv 2411.19415).

    >>> from beeline.solvers.diffusions import White
    >>> from beeline.core.rng import Rng
    >>> step = Overshoot(White(Rng(0)), strength=0.0)
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: NoiseProcess
    strength: float = 1.0  # 0 is the inner solver; 1 to 2 is usual
    solver: Solver = EULER  # a one-step method
    path: AffinePath = field(default_factory=Linear)  # the flow's
    full: bool = False

    def __post_init__(self) -> None:
        require(
            self.strength >= 0,
            f"Overshoot got strength={self.strength}; a step cannot end before its end time: set 0 or more",
        )
        self.check_inner(one_step=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            bool((host_times(s) > host_times(t)).all()),
            "Overshoot got a step towards the source; it is defined towards the data only: invert with an ODE solver",
        )
        aim = map_times(self._aim, t, s)
        x = self.solver.step(f, x, t, aim, None)[0]
        return renoise(self.path, x, aim, s, self.noise), None

    def _aim(self, t: Tensor, s: Tensor) -> Tensor:
        """The time beyond s at which the step ends."""
        return torch.ones_like(s) if self.full else (s + self.strength * (s - t) * self.path.b(s)).clamp(max=1.0)


@dataclass(frozen=True)
class Refresh(MemorylessInner):
    """Churn: exact noising to an earlier time, then an ODE step over the longer interval.

    r = t - (s-t) g^2 / (2 b (a' b/a - b')),  x_r = (a_r/a_t) x + sqrt(b_r^2 - (a_r b_t/a_t)^2) z,  x_s by the solver
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.  The noising adds no error to
    that of the inner solver, for any strength.
    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 2; Xu et al. 2023, "Restart Sampling" (arXiv 2306.14878).

    >>> from beeline.solvers.diffusions import White
    >>> from beeline.core.rng import Rng
    >>> step = Refresh(White(Rng(0)), Fading(0.0), EULER)
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: NoiseProcess
    diffusion: Diffusion = field(default_factory=Fading)
    solver: Solver = HEUN  # a one-step method
    path: AffinePath = field(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        self.check_inner(one_step=True)

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(
            bool((host_times(s) > host_times(t)).all()),
            "Refresh got a step towards the source; it is defined towards the data only: invert with an ODE solver",
        )
        back = map_times(self._earlier, t, s)
        x = renoise(self.path, x, t, back, self.noise)
        return self.solver.step(f, x, back, s, None)[0], None

    def _earlier(self, t: Tensor, s: Tensor) -> Tensor:
        """The earlier time r of this step: g^2 (s-t) = growth of the noise variance from t back to r."""
        a, b, da, db = self.path.coefficients(t.clamp(min=1e-6))
        growth = 2 * b * (da * b / a - db)  # -a^2 d(b/a)^2/dt: noise variance added per unit of time going back
        share = torch.where(growth > 0, self.diffusion(t) / growth.clamp(min=1e-12), torch.zeros_like(t))
        return torch.where(t > 0, (t - share * (s - t)).clamp(min=0.0).minimum(t), t)


@dataclass(frozen=True)
class Langevin(StochasticWrapper):
    """Predictor-corrector: Langevin steps at the end of each step of a solver.

    x <- x + e score(x, s) + sqrt(2 e) z,  e = size b(s)^2;  none where b = 0
    Assumes a Gaussian source, an independent coupling and the affine path of the flow.
    Source: Song et al. 2021, "Score-Based Generative Modeling through SDEs" (arXiv 2011.13456), predictor-corrector.

    >>> from beeline.solvers.diffusions import White
    >>> from beeline.core.rng import Rng
    >>> step = Langevin(White(Rng(0)))
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[0.5000]])
    """

    noise: NoiseProcess
    solver: Solver = HEUN
    repeats: int = 1  # Langevin steps after each step, one evaluation each
    size: float = 0.05  # step size in units of the noise variance; 0.01 to 0.2
    path: AffinePath = field(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        require(
            self.repeats >= 0 and self.size > 0,
            f"Langevin got repeats={self.repeats}, size={self.size}; Langevin steps need a positive size: set "
            "repeats >= 0 and size > 0",
        )
        self.check_inner()

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        x, memory = self.solver.step(f, x, t, s, memory)
        if not bool((self.path.b(host_times(s)) > 0).all()):
            return x, memory
        wide = expand_time(self.size * self.path.b(s) ** 2, x)
        for k in range(self.repeats):
            score = self.path.score(x, f(x, s), s)
            x = x + wide * score + (2 * wide).sqrt() * self.noise(t, s, x, k)
        return x, memory


def renoise(path: AffinePath, x: Tensor, t: Tensor, s: Tensor, noise: NoiseProcess, name: str | int = "step") -> Tensor:
    """Noise a state of time t to an earlier time s, exactly: x_s = (a_s/a_t) x + sqrt(b_s^2 - (a_s b_t/a_t)^2) z."""
    if bool((host_times(s) == host_times(t)).all()):
        return x
    a, b, a_s, b_s = path.a(t), path.b(t), path.a(s), path.b(s)
    ratio = torch.where(s == t, torch.ones_like(s), a_s / a.clamp(min=1e-30))
    spread = (b_s**2 - (ratio * b) ** 2).clamp(min=0.0).sqrt()
    wide = torch.where(s == t, torch.zeros_like(s), spread)
    return expand_time(ratio, x) * x + expand_time(wide, x) * noise(t, s, x, name)


def _log_normal(x: Tensor, spread: Tensor) -> Tensor:
    """log N(x; 0, spread^2) per sample [B]; coordinates with spread 0 contribute 0."""
    wide = spread.expand_as(x)
    safe = torch.where(wide > 0, wide, torch.ones_like(wide))
    value = -((x / safe) ** 2) / 2 - safe.log() - math.log(2 * math.pi) / 2
    return torch.where(wide > 0, value, torch.zeros_like(value)).flatten(1).sum(1)
