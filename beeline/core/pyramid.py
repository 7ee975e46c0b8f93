"""The pyramid: a flow that walks through resolutions, coarse and noisy first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.field import bind
from beeline.core.integrate import integrate
from beeline.core.rng import Rng
from beeline.core.solver import HEUN, Solver
from beeline.core.types import Cond, Point, over, require


@dataclass(frozen=True)
class Pyramid:
    """Stages of rising resolution, each a straight line from a noisy coarse picture to a cleaner finer one.

    stage k: x = (1-u) (S_k n_k + (1-S_k) Up D_(k-1) x1) + u (E_k n_k + (1-E_k) D_k x1),  v = end - start, one noise n_k
    at a jump x <- A Up x + B n',  A = 1/(sqrt(1+1/g) E + 1-E),  B = A E / sqrt(g),  which restores white noise
    Assumes pictures [B,C,H,W] with sides divisible by 2^(stages-1) and a network for all resolutions.
    Source: Jin et al. 2024, "Pyramidal Flow Matching" (arXiv 2410.05954).

    >>> Pyramid().stages, [round(Pyramid().start(k), 3) for k in range(3)]
    (3, [1.0, 0.8, 0.5])
    """

    levels: tuple[float, ...] = (1.0, 2 / 3, 1 / 3, 0.0)  # noise at the ends of the stages, falling from 1 to 0
    correlation: float = 1 / 3  # of the noise added at a jump within a block of 2 x 2, negative; in (0, 1/3]

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        require(
            len(self.levels) >= 2 and falling and self.levels[0] == 1 and self.levels[-1] == 0,
            f"Pyramid got the noise levels {self.levels}; they fall from 1 to 0, one more than stages: "
            "for example (1, 0.5, 0)",
        )
        require(
            0 < self.correlation <= 1 / 3,
            f"Pyramid got correlation={self.correlation}; above 1/3 four pixels cannot be so opposed, and 0 gives no "
            "restoring noise: give a number in (0, 1/3]",
        )

    @property
    def stages(self) -> int:
        return len(self.levels) - 1

    def gain(self, stage: int) -> float:
        """A, by which a picture is scaled on entering ``stage`` (from 1)."""
        e = self.levels[stage]
        return 1 / (math.sqrt(1 + 1 / self.correlation) * e + 1 - e)

    def start(self, stage: int) -> float:
        """S: the noise at the start of ``stage``; more than the stage before ended with, as doubling pixels needs."""
        return 1.0 if stage == 0 else 1 - self.gain(stage) * (1 - self.levels[stage])

    def clock(self, stage: int, u: Tensor) -> Tensor:
        """The time in [0, 1] that the network sees at the local time ``u`` of a stage."""
        lengths = [self.start(k) - self.levels[k + 1] for k in range(self.stages)]
        return (sum(lengths[:stage]) + u * lengths[stage]) / math.fsum(lengths)

    def coarse(self, x: Tensor, stage: int) -> Tensor:
        """D_k: the picture at the resolution of ``stage``."""
        self.check(x)
        return F.avg_pool2d(x, 2 ** (self.stages - 1 - stage))

    def point(self, x0: Tensor, x1: Tensor, stage: int, u: Tensor) -> Point:
        """State and velocity of ``stage`` at its local time ``u`` [B], from full-size noise and picture."""
        fine = 2 ** (self.stages - 1 - stage)
        noise = F.avg_pool2d(x0, fine) * fine  # averages of unit variance
        high = self.coarse(x1, stage)
        s, e = self.start(stage), self.levels[stage + 1]
        low = high if stage == 0 else up(self.coarse(x1, stage - 1))
        begin, end = s * noise + (1 - s) * low, e * noise + (1 - e) * high
        wide = over(u, begin)
        return Point((1 - wide) * begin + wide * end, end - begin)

    def jump(self, x: Tensor, stage: int, rng: Rng) -> Tensor:
        """From the end of the stage before to the start of ``stage``, at twice the resolution."""
        big = up(x)
        g, a = self.correlation, self.gain(stage)
        z = rng.normal(big)
        mean = up(F.avg_pool2d(z, 2))
        # variance 1 for each pixel and covariance -g inside a block
        noise = math.sqrt(1 + g) * (z - (1 - math.sqrt((1 - 3 * g) / (1 + g))) * mean)
        return a * big + a * self.levels[stage] / math.sqrt(g) * noise

    def sample(
        self, field: Any, like: Tensor, rng: Rng, *, steps: int = 10, solver: Solver = HEUN, cond: Cond = None
    ) -> Tensor:
        """Pictures of the shape of ``like`` [B,C,H,W], ``steps`` steps in every stage."""
        x = rng.fork("source").normal(self.coarse(like, 0))
        f, even = bind(field, cond), torch.linspace(0, 1, steps + 1, dtype=x.dtype)
        for k in range(self.stages):
            if k:
                x = self.jump(x, k, rng.fork("jump", k))
            x = integrate(lambda y, u, k=k: f(y, self.clock(k, u)), x, even, solver)
        return x

    def check(self, x: Tensor) -> None:
        """Refuse what has not the shape of pictures for this pyramid."""
        fine = 2 ** (self.stages - 1)
        require(
            x.ndim == 4 and x.shape[2] % fine == 0 and x.shape[3] % fine == 0,
            f"a pyramid of {self.stages} stages was given data of shape {tuple(x.shape)}; it halves pictures [B,C,H,W] "
            f"{self.stages - 1} times: give sides divisible by {fine}, or fewer stages",
        )


def up(x: Tensor) -> Tensor:
    """Every pixel as a block of 2 x 2."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
