"""Stochastic solvers: steps that add noise and keep the law of every time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from beeline.core.field import Flow, bind
from beeline.core.path import AffinePath, Linear
from beeline.core.rng import Rng
from beeline.core.solver import EULER, HEUN, Solver
from beeline.core.types import Cond, Dynamics, over, require


class Noise(Protocol):
    """z [B,*S] for the step from t to s, standard normal; the same numbers whenever the same step is asked for."""

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = ...) -> Tensor: ...


@dataclass(frozen=True)
class White:
    """Fresh noise for every step.

    z ~ N(0, I), keyed by the ends of the step
    Assumes nothing; another number of steps is another noise.  With ``seeds`` (one per sample) a sample gets the same
    noise alone or in any batch.
    Source: none.

    >>> White(Rng(0))(torch.zeros(2), torch.ones(2), torch.empty(2, 3)).shape
    torch.Size([2, 3])
    """

    rng: Rng
    seeds: tuple[int, ...] = ()  # one per sample, or none

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = "step") -> Tensor:
        key = self.rng.fork(name, float(t.flatten()[0]), float(s.flatten()[0]))
        return key.rows(self.seeds, like) if self.seeds else key.normal(like)


@dataclass(frozen=True)
class Brownian:
    """One Brownian motion for every number of steps, so that finer walks approach the same sample.

    z = (W(s) - W(t)) / sqrt|s - t|,  W by bisection: W(middle) = mean of the ends + half sqrt(length) N(0, I)
    Assumes one time for the whole batch.  Times closer than 2^-depth are bridged apart from each other.
    Source: Levy's construction; Li et al. 2020, "Scalable Gradients for SDEs" (arXiv 2001.01328), virtual tree.

    >>> W, like = Brownian(Rng(0)), torch.empty(1, 2, dtype=torch.float64)
    >>> a, m, b = (torch.tensor([t], dtype=torch.float64) for t in (0.25, 0.5, 0.75))
    >>> bool(torch.allclose(W(a, b, like) * 0.5**0.5, W(a, m, like) * 0.5 + W(m, b, like) * 0.5))
    True
    """

    rng: Rng
    seeds: tuple[int, ...] = ()  # one per sample, or none
    depth: int = 14  # bisections before the last bridge

    def __call__(self, t: Tensor, s: Tensor, like: Tensor, name: str | int = "step") -> Tensor:
        start, end = float(t.flatten()[0]), float(s.flatten()[0])
        require(
            bool((t == t.flatten()[0]).all() and (s == s.flatten()[0]).all()),
            "Brownian got times that differ between samples; one motion needs one clock: use White, or equal times",
        )
        rng = self.rng.fork(name)
        step = self._at(rng, end, like) - self._at(rng, start, like)
        return step / math.sqrt(abs(end - start))

    def _at(self, rng: Rng, t: float, like: Tensor) -> Tensor:
        low, high = 0.0, 1.0
        below, above = torch.zeros_like(like), self._draw(rng.fork("end"), like)
        if t in (low, high):
            return below if t == low else above
        for _ in range(self.depth):
            middle = (low + high) / 2
            here = (below + above) / 2 + math.sqrt(high - low) / 2 * self._draw(rng.fork(middle), like)
            if t == middle:
                return here
            low, high, below, above = (low, middle, below, here) if t < middle else (middle, high, here, above)
        share = (t - low) / (high - low)
        spread = math.sqrt((t - low) * (high - t) / (high - low))
        return below + share * (above - below) + spread * self._draw(rng.fork("leaf", t), like)

    def _draw(self, rng: Rng, like: Tensor) -> Tensor:
        return rng.rows(self.seeds, like) if self.seeds else rng.normal(like)


class Diffusion(Protocol):
    """g(t)^2, the noise that a stochastic step adds per unit of time; 0 is the ODE."""

    def __call__(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Fading:
    """Noise that fades towards the data.

    g(t)^2 = 2 strength (1-t)^power
    Assumes nothing; with power 1 the drift is v + strength (t v - x) on the straight path, with no division.
    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), any diffusion after training.

    >>> Fading(3.0)(torch.tensor([0.5]))
    tensor([3.])
    """

    strength: float = 1.0  # 0 is the ODE; 1 to 4 is usual
    power: float = 1.0  # 0 is constant noise; 4 fades early

    def __post_init__(self) -> None:
        require(
            self.strength >= 0 and self.power >= 0,
            f"Fading got strength={self.strength}, power={self.power}; g^2 cannot be negative, nor grow without bound "
            "at the data: give 0 or more",
        )

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * (1 - t) ** self.power


@dataclass(frozen=True)
class Hump:
    """Noise in the middle of the walk only.

    g(t)^2 = 2 strength sin(pi t)^2
    Assumes nothing.
    Source: Singh and Fischer 2024, "Stochastic Sampling from Deterministic Flow Models" (arXiv 2410.02217), by form.

    >>> Hump(1.0)(torch.tensor([0.5]))
    tensor([2.])
    """

    strength: float = 1.0  # 0 is the ODE

    def __post_init__(self) -> None:
        require(self.strength >= 0, f"Hump got strength={self.strength}; g^2 cannot be negative: give 0 or more")

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * torch.sin(math.pi * t) ** 2


@dataclass(frozen=True)
class Rectified:
    """The noise of rectified SDEs, whose time reversal is the plain noising of the straight path.

    g(t)^2 = 2 strength (1-t) / max(t, floor)
    Assumes the straight path; strength 1 is the reversal of forgetting the datum at its natural rate.
    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified SDEs" (arXiv 2410.10792).

    >>> Rectified()(torch.tensor([0.5]))
    tensor([2.])
    """

    strength: float = 1.0  # 0 is the ODE
    floor: float = 0.02  # smallest t that is divided by

    def __post_init__(self) -> None:
        require(
            self.strength >= 0 and self.floor > 0,
            f"Rectified got strength={self.strength}, floor={self.floor}; give a strength of 0 or more, "
            "and a floor above 0",
        )

    def __call__(self, t: Tensor) -> Tensor:
        return 2 * self.strength * (1 - t) / t.clamp(min=self.floor)


class Trace(NamedTuple):
    """The memory of a stochastic run: log-probability of the states it took, in nats, [B]."""

    log_prob: Tensor
    inner: Any = None


@dataclass(frozen=True)
class EulerMaruyama:
    """The stochastic walk with the marginals of the flow: velocity, half the noise times the score, and noise.

    dx = (v + g^2/2 score) dt + g dW,  backwards dx = (v - g^2/2 score) dt + g dW;  v and score at (x, t), g at t
    Assumes a Gaussian source and an independent coupling (the Sampler checks both) and the flow's own affine path.  A
    step that ends where b = 0 (the data) adds no noise.  The log-probability of the walk, for reinforcement learning,
    is in its memory (``integrate(..., done=...)``), and ``log_prob`` gives it for a step that was taken before.
    Source: Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic Interpolants" (arXiv 2303.08797).

    >>> walk = EulerMaruyama(White(Rng(0)), Fading(0.0))
    >>> walk.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: Noise
    diffusion: Diffusion = field(default_factory=Fading)
    path: AffinePath = field(default_factory=Linear)  # the flow's
    heun: bool = False  # average the drift at both ends, with the same noise: two evaluations, weak order two
    order = 1
    score = True  # needs one: the Sampler asks the flow

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        sign = torch.sign(over(s - t, x))
        live = self._live(t) & self._live(s)
        drift = self._drift(f, x, t, live, sign)
        spread = self._spread(x, t, s)
        push = spread * self.noise(t, s, x)
        mean = torch.addcmul(x, over(s - t, x), drift)
        log_prob = torch.zeros_like(t.flatten(1)[:, 0] if t.ndim > 1 else t) if memory is None else memory.log_prob
        new = mean + push
        if self.heun and bool((spread > 0).all()):
            new = torch.addcmul(x, over(s - t, x), (drift + self._drift(f, new, s, live, sign)) / 2) + push
        return new, Trace(log_prob + _log_normal(push, spread))

    def log_prob(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, x_s: Tensor) -> Tensor:
        """log p(x_s | x) in nats [B] of one step, differentiable in the field; 0 for a step that adds no noise."""
        require(
            not self.heun, "the density of a corrected step was asked for; it is not normal: use heun=False for both"
        )
        drift = self._drift(f, x, t, self._live(t) & self._live(s), torch.sign(over(s - t, x)))
        mean = torch.addcmul(x, over(s - t, x), drift)
        return _log_normal(x_s - mean, self._spread(x, t, s))

    def _drift(self, f: Dynamics, x: Tensor, t: Tensor, live: Tensor, sign: Tensor) -> Tensor:
        v = f(x, t)
        strength = torch.where(live, self.diffusion(t) / 2, torch.zeros_like(t))
        if not bool((strength > 0).any()):
            return v
        at = torch.where(live, t, torch.full_like(t, 0.5))  # where no score exists none is used
        return v + sign * over(strength, x) * self.path.score(x, v, at)

    def _spread(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Standard deviation of the noise of a step, as wide as x."""
        live = self._live(t) & self._live(s)
        return over((self.diffusion(t) * (s - t).abs() * live).sqrt(), x)

    def _live(self, t: Tensor) -> Tensor:
        return self.path.b(t) > 0


@dataclass(frozen=True)
class Overshoot:
    """Walk the ODE beyond the aim, then noise back to it exactly.

    o = min(1, s + strength (s - t) b_s),  x_o by the solver,  x_s = (a_s/a_o) x_o + sqrt(b_s^2 - (a_s b_o/a_o)^2) z
    Assumes a Gaussian source, an independent coupling and the flow's affine path.  The noising is exact, so the law is
    kept as well as the inner solver keeps it.  ``full`` always goes to o = 1 in one Euler step: the full refresh of
    diffusers, which takes the mean datum for a sample and is biased at any number of steps.
    Source: Hu et al. 2024, "AMO Sampler: Enhancing Text Rendering with Overshooting" (arXiv 2411.19415).

    >>> step = Overshoot(White(Rng(0)), strength=0.0)
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: Noise
    strength: float = 1.0  # 0 is the inner solver; 1 to 2 is usual
    solver: Solver = EULER  # a one-step method
    path: AffinePath = field(default_factory=Linear)  # the flow's
    full: bool = False
    score = True

    def __post_init__(self) -> None:
        require(self.strength >= 0, f"Overshoot got strength={self.strength}; a walk cannot fall short: give 0 or more")

    @property
    def order(self) -> int:
        return self.solver.order

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(bool((s > t).all()), "Overshoot was asked to walk to the source; it goes to the data: invert by an ODE")
        aim = torch.ones_like(s) if self.full else (s + self.strength * (s - t) * self.path.b(s)).clamp(max=1.0)
        x = self.solver.step(f, x, t, aim, None)[0]
        return renoise(self.path, x, aim, s, self.noise), None


@dataclass(frozen=True)
class Refresh:
    """Noise back a little exactly, then walk the ODE over the whole way: churn.

    r = t - (s-t) g^2 / (2 b (a' b/a - b')),  x_r = (a_r/a_t) x + sqrt(b_r^2 - (a_r b_t/a_t)^2) z,  x_s by the solver
    Assumes a Gaussian source, an independent coupling and the flow's affine path.  The noising is exact, so the law is
    kept as well as the inner solver keeps it, for any strength.
    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 2; Xu et al. 2023, "Restart Sampling" (arXiv 2306.14878).

    >>> step = Refresh(White(Rng(0)), Fading(0.0), EULER)
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[1.]])
    """

    noise: Noise
    diffusion: Diffusion = field(default_factory=Fading)
    solver: Solver = HEUN  # a one-step method
    path: AffinePath = field(default_factory=Linear)  # the flow's
    score = True

    @property
    def order(self) -> int:
        return self.solver.order

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        require(bool((s > t).all()), "Refresh was asked to walk to the source; it goes to the data: invert by an ODE")
        back = self._earlier(t, s)
        x = renoise(self.path, x, t, back, self.noise)
        return self.solver.step(f, x, back, s, None)[0], None

    def _earlier(self, t: Tensor, s: Tensor) -> Tensor:
        """The time to which the noise of this step leads back: g^2 (s-t) = growth of the noise from t back to r."""
        a, b, da, db = self.path.coefficients(t.clamp(min=1e-6))
        growth = 2 * b * (da * b / a - db)  # -a^2 d(b/a)^2/dt: noise variance added per unit of time going back
        share = torch.where(growth > 0, self.diffusion(t) / growth.clamp(min=1e-12), torch.zeros_like(t))
        return torch.where(t > 0, (t - share * (s - t)).clamp(min=0.0).minimum(t), t)


@dataclass(frozen=True)
class Langevin:
    """A solver whose every state is shaken by Langevin steps at its own time, which pull it back to the law there.

    x <- x + e score(x, s) + sqrt(2 e) z,  e = size b(s)^2;  none where b = 0
    Assumes a Gaussian source, an independent coupling and the flow's affine path.
    Source: Song et al. 2021, "Score-Based Generative Modeling through SDEs" (arXiv 2011.13456), predictor-corrector.

    >>> step = Langevin(White(Rng(0)))
    >>> step.step(lambda x, t: 1 - x, torch.zeros(1, 1), torch.zeros(1), torch.ones(1), None)[0]
    tensor([[0.5000]])
    """

    noise: Noise
    solver: Solver = HEUN
    repeats: int = 1  # shakes after every step, one evaluation each
    size: float = 0.05  # in units of the noise variance; 0.01 to 0.2
    path: AffinePath = field(default_factory=Linear)  # the flow's
    score = True

    def __post_init__(self) -> None:
        require(
            self.repeats >= 0 and self.size > 0,
            f"Langevin got repeats={self.repeats}, size={self.size}; give 0 or more shakes of a size above 0",
        )

    @property
    def order(self) -> int:
        return self.solver.order

    def step(self, f: Dynamics, x: Tensor, t: Tensor, s: Tensor, memory: Any) -> tuple[Tensor, Any]:
        x, memory = self.solver.step(f, x, t, s, memory)
        b = self.path.b(s)
        if not bool((b > 0).all()):
            return x, memory
        wide = over(self.size * b**2, x)
        for k in range(self.repeats):
            score = self.path.score(x, f(x, s), s)
            x = x + wide * score + (2 * wide).sqrt() * self.noise(t, s, x, k)
        return x, memory


def renoise(path: AffinePath, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
    """From the law of time t to the law of an earlier time s, exactly: x_s = (a_s/a_t) x + sqrt(...) z."""
    if bool((s == t).all()):
        return x
    a, b, a_s, b_s = path.a(t), path.b(t), path.a(s), path.b(s)
    ratio = torch.where(s == t, torch.ones_like(s), a_s / a.clamp(min=1e-30))
    spread = (b_s**2 - (ratio * b) ** 2).clamp(min=0.0).sqrt()
    return over(ratio, x) * x + over(torch.where(s == t, torch.zeros_like(s), spread), x) * noise(t, s, x)


def on_path(flow: Flow, path: AffinePath) -> Flow:
    """The same flow walked on another affine path between the same laws: x' = (a'/a) x where a/b agree.

    u(x, r) = a'(r) D + b'(r) E with D, E the ends that the learned velocity implies at the time of equal a/b.
    Assumes the straight path, or any affine path, as learned; a Gaussian source and an independent coupling.
    Source: Kim et al. 2025, "Inference-Time Scaling for Flow Models" (arXiv 2503.19385), interpolant conversion.
    """
    learned = flow.require_score()

    def walked(x: Tensor, r: Tensor, cond: Cond = None) -> Tensor:
        a, b, da, db = path.coefficients(r)
        t = same_ratio(learned, a, b)
        scale = ((a**2 + b**2) / (learned.a(t) ** 2 + learned.b(t) ** 2)).sqrt()
        y = x / over(scale, x)
        source, data = learned.ends(y, bind(flow.field, cond)(y, t), t)
        return over(da, x) * data + over(db, x) * source

    return replace(flow, field=walked, path=path)


def same_ratio(path: AffinePath, a: Tensor, b: Tensor) -> Tensor:
    """The time at which the path has the ratio a : b; closed on the straight path, by bisection elsewhere."""
    if isinstance(path, Linear):
        return a / (a + b)
    low, high = torch.zeros_like(a, dtype=torch.float64), torch.ones_like(a, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        late = path.a(middle) * b > path.b(middle) * a
        low, high = torch.where(late, low, middle), torch.where(late, middle, high)
    return ((low + high) / 2).to(a.dtype)


def _log_normal(x: Tensor, spread: Tensor) -> Tensor:
    """log N(x; 0, spread^2) per sample; a coordinate without spread is certain and counts 0."""
    wide = spread.expand_as(x)
    safe = torch.where(wide > 0, wide, torch.ones_like(wide))
    value = -((x / safe) ** 2) / 2 - safe.log() - math.log(2 * math.pi) / 2
    return torch.where(wide > 0, value, torch.zeros_like(value)).flatten(1).sum(1)
