"""Pyramidal flow: stages of increasing resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Solver
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng, keys_of
from beeline.core.types import Cond, Dynamics, Point, expand_time
from beeline.fields.flow import Flow, bind
from beeline.solvers.integrate import integrate
from beeline.solvers.process import Process, StateCallback, StateCorrection
from beeline.solvers.runge_kutta import HEUN


@dataclass(frozen=True)
class Pyramid:
    """Stages of increasing resolution, each a straight path from a noisy upsampled image to a less noisy one.

    stage k: x = (1-u) (S_k n_k + (1-S_k) Up D_(k-1) x1) + u (E_k n_k + (1-E_k) D_k x1),  v = end - start, one noise n_k
    between stages x <- A Up x + B n',  A = 1/(sqrt(1+1/g) E + 1-E),  B = A E / sqrt(g),  which restores white noise
    Assumes images [B,C,H,W] with sides divisible by 2^(stages-1) and a network for all resolutions.  A Sampler computes
    all noise from one full-size x0: its local averages start the first stage, and its details are added between stages
    (completely at correlation 1/3; below, further noise is keyed by the bits of x0).
    Source: Jin et al. 2024, "Pyramidal Flow Matching" (arXiv 2410.05954).

    >>> Pyramid().stages, [round(Pyramid().start(k), 3) for k in range(3)]
    (3, [1.0, 0.8, 0.5])
    """

    levels: tuple[float, ...] = (1.0, 2 / 3, 1 / 3, 0.0)  # noise at the ends of the stages, decreasing from 1 to 0
    correlation: float = 1 / 3  # minus the correlation of the added noise within 2 x 2 pixels, in (0, 1/3]

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        require(
            len(self.levels) >= 2 and falling and self.levels[0] == 1 and self.levels[-1] == 0,
            f"Pyramid got levels={self.levels}; they must decrease from 1 to 0, one more than the stages: set for "
            "example (1, 0.5, 0)",
        )
        require(
            0 < self.correlation <= 1 / 3,
            f"Pyramid got correlation={self.correlation}; four pixels cannot have a mutual correlation below -1/3, and "
            "0 cannot restore white noise: set a number in (0, 1/3]",
        )

    @property
    def stages(self) -> int:
        return len(self.levels) - 1

    def gain(self, stage: int) -> float:
        """A, the scale of the image at the start of ``stage`` (from 1)."""
        e = self.levels[stage]
        return 1 / (math.sqrt(1 + 1 / self.correlation) * e + 1 - e)

    def start(self, stage: int) -> float:
        """S: the noise level at the start of ``stage``, above that at the end of the previous stage."""
        return 1.0 if stage == 0 else 1 - self.gain(stage) * (1 - self.levels[stage])

    def clock(self, stage: int, u: Tensor) -> Tensor:
        """The time in [0, 1] passed to the network at the local time ``u`` of a stage."""
        lengths = [self.start(k) - self.levels[k + 1] for k in range(self.stages)]
        return (sum(lengths[:stage]) + u * lengths[stage]) / math.fsum(lengths)

    def coarse(self, x: Tensor, stage: int) -> Tensor:
        """D_k: the image at the resolution of ``stage``."""
        self.check(x)
        return F.avg_pool2d(x, 2 ** (self.stages - 1 - stage))

    def point(self, x0: Tensor, x1: Tensor, stage: int, u: Tensor) -> Point:
        """State and velocity of ``stage`` at its local time ``u`` [B], from full-size noise and image."""
        noise = self.noise(x0, stage)
        high = self.coarse(x1, stage)
        s, e = self.start(stage), self.levels[stage + 1]
        low = high if stage == 0 else upsample(self.coarse(x1, stage - 1))
        begin, end = s * noise + (1 - s) * low, e * noise + (1 - e) * high
        wide = expand_time(u, begin)
        return Point((1 - wide) * begin + wide * end, end - begin)

    def jump(self, x: Tensor, stage: int, rng: Rng) -> Tensor:
        """The state at the start of ``stage``, at twice the resolution, from that at the end of the previous stage."""
        z = rng.normal(upsample(x))
        mean = F.avg_pool2d(z, 2)
        return self.enter(x, stage, z - upsample(mean), mean)

    def enter(self, x: Tensor, stage: int, detail: Tensor, mean: Tensor) -> Tensor:
        """``jump`` with given noise: the deviations of white noise from its 2 x 2 averages, and averages."""
        g, a = self.correlation, self.gain(stage)
        # variance 1 per pixel and covariance -g within a block
        noise = math.sqrt(1 + g) * detail + math.sqrt(max(1 - 3 * g, 0.0)) * upsample(mean)
        return a * upsample(x) + a * self.levels[stage] / math.sqrt(g) * noise

    def noise(self, x0: Tensor, stage: int) -> Tensor:
        """White noise at the resolution of ``stage``: local averages of full-size noise, scaled to variance 1."""
        fine = 2 ** (self.stages - 1 - stage)
        return F.avg_pool2d(x0, fine) * fine

    def process(self) -> Process:
        return Stages(pyramid=self)

    def sample(
        self, field: Any, like: Tensor, rng: Rng, *, steps: int = 10, solver: Solver = HEUN, cond: Cond = None
    ) -> Tensor:
        """Images of the shape of ``like`` [B,C,H,W], with ``steps`` steps in every stage."""
        x = rng.fork("source").normal(self.coarse(like, 0))
        f, even = bind(field, cond), torch.linspace(0, 1, steps + 1, dtype=x.dtype)
        for k in range(self.stages):
            if k:
                x = self.jump(x, k, rng.fork("jump", k))
            x = integrate(lambda y, u, k=k: f(y, self.clock(k, u)), x, even, solver)
        return x

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` has the shape of images for this pyramid."""
        fine = 2 ** (self.stages - 1)
        require(
            x.ndim == 4 and x.shape[2] % fine == 0 and x.shape[3] % fine == 0,
            f"a pyramid of {self.stages} stages got data of shape {tuple(x.shape)}; it halves images [B,C,H,W] "
            f"{self.stages - 1} times: use sides divisible by {fine}, or fewer stages",
        )


@dataclass(frozen=True)
class Stages(Process):
    """Integrates stage by stage from full-size noise; the times nearest to a change of stage are moved to it.

    ``watch`` is called with states of every resolution, at a change of stage with those before and after it.
    """

    pyramid: Pyramid = Pyramid()
    invertible = False
    resizes = True

    def check(self, flow: Flow, solver: Solver, times: Tensor) -> None:
        super().check(flow, solver, times)
        self.cuts(times)

    def run(
        self,
        f: Dynamics,
        x: Tensor,
        times: Tensor,
        solver: Solver,
        *,
        after: StateCorrection | None = None,
        watch: StateCallback | None = None,
        done: Callable[[Any], None] | None = None,
    ) -> Tensor:
        p = self.pyramid
        p.check(x)
        cuts = self.cuts(times)
        keys = keys_of(x) if p.correlation < 1 / 3 else []
        y = p.noise(x, 0)
        for k in range(p.stages):
            if k:
                z = p.noise(x, k)
                mean = F.avg_pool2d(z, 2)
                fresh = Rng(0).fork("pyramid", k).rows(keys, mean) / 2 if keys else mean
                y = p.enter(y, k, z - upsample(mean), fresh)
            part = times[cuts[k] : cuts[k + 1] + 1]
            even = (part - part[0]) / (part[-1] - part[0])

            def here(fn: Any, k: int = k) -> Any:
                return None if fn is None else lambda state, u: fn(state, p.clock(k, u))

            y = integrate(here(f), y, even, solver, after=here(after), watch=here(watch), done=done)
        return y

    def cuts(self, times: Tensor) -> list[int]:
        """Indices into ``times`` of the start of each stage and of the end of the last one."""
        p, n = self.pyramid, len(times) - 1
        require(
            times.ndim == 1 and float(times[0]) == 0 and float(times[-1]) == 1 and n >= p.stages,
            f"a pyramid of {p.stages} stages got {n} steps from {float(times[0]):g} to {float(times[-1]):g}; it is "
            f"sampled from 0 to 1 with at least one step per stage: set {p.stages} steps or more from 0 to 1",
        )
        cuts = [0]
        for k in range(1, p.stages):
            at = float(p.clock(k, torch.zeros((), dtype=torch.float64)))
            near = int((times - at).abs().argmin())
            cuts.append(min(max(near, cuts[-1] + 1), n - (p.stages - k)))
        return [*cuts, n]


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2, [B,C,H,W] -> [B,C,2H,2W]."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
