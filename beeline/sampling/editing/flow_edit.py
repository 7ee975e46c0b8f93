"""Edits by the difference of two velocities, without an inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, Early, Positive, Range, Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import Drift, along, noise_at, require_linear
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class FlowEdit:
    """Moves data by the difference of the velocities under both conditions.

    dz/dt = E_e [v(z + x_t - x, t, new_cond) - v(x_t, t, cond)],  x_t = t x + (1 - t) e,  z = x at t = ``start``
    With equal conditions and guidance nothing moves, exactly.  The data move less than by an inversion, and Gaussians
    of one covariance move by the difference of their means.  From ``until`` on z + x_t - x is sampled as usual under
    the new condition, which also changes data with equal conditions.
    Assumes a velocity field on the straight path.  The guidance of the new condition is that of the sampler.
    Source: Kulikov et al. 2024, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models"
    (arXiv 2412.08629).

    >>> FlowEdit(start=0.2).draws
    1
    """

    start: Early = 0.33  # time at which the edit begins; later ones keep more of the data
    draws: Count = 1  # of the noise e at every time, whose mean is taken
    source_guidance: Guidance = field(default_factory=Plain)  # of the old condition
    until: Annotated[float, Range(above=0, most=1)] = 1.0  # time of the plain sampling after it; 1 has none

    def __post_init__(self) -> None:
        require(
            self.start < self.until,
            f"FlowEdit got start={self.start}, until={self.until}; the edit runs from one to the other: set start "
            "below until",
        )

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        require_linear(flow, "FlowEdit")
        dynamics = difference(x, cond, new_cond, rng, self.draws, self.source_guidance)
        if self.until == 1:
            return along(flow, x, sampler, dynamics, start=self.start)
        first = min(max(1, round(sampler.steps * (self.until - self.start) / (1 - self.start))), sampler.steps - 1)
        require(first > 0, "FlowEdit with a plain part at its end got one step; it needs two or more: set steps=")
        z = along(flow, x, replace(sampler, steps=first), dynamics, start=self.start, end=self.until)
        t = z.new_full((len(z),), self.until)
        noisy = z + (1 - self.until) * (noise_at(rng, t, x, 0) - x)  # z + x_t - x
        return replace(sampler, steps=sampler.steps - first)(flow, noisy, new_cond, start=self.until)


@dataclass(frozen=True)
class DeltaVelocity:
    """Minimises the difference of the velocities under both conditions, along the times of the flow.

    dz/dt = rate E_e [v(x'_t, t, new_cond) - v(x_t, t, cond) - (1 - eta) (z - x)],
    x_t = t x + (1 - t) e,  x'_t = x_t + (t + eta (1 - t)) (z - x),  eta = shift, or shift t if ``progressive``
    With shift 1 that is not progressive and rate 1 it is FlowEdit; with shift 0 the direction of delta denoising
    scores, (E_new - E_old) / t in predictions of the noise.  With equal conditions nothing moves, exactly.
    Lower shifts keep more of the data.  A step has the length of the step of the sampler, times the rate; the authors
    give a formula of step sizes that fits 50 steps of one model.
    Assumes a velocity field on the straight path.  The guidance of the new condition is that of the sampler.
    Source: Beaudouin et al. 2025, "Delta Velocity Rectified Flow for Text-to-Image Editing" (arXiv 2509.05342).

    >>> DeltaVelocity(0.5, progressive=False).shift
    0.5
    """

    shift: Share = 1.0
    progressive: bool = True  # whether the shift grows with the time
    rate: Positive = 1.0  # step size in lengths of the steps; above 2 / (length) it diverges
    start: Early = 0.0  # time at which the edit begins; later ones keep more of the data
    draws: Count = 1  # of the noise e at every time, whose mean is taken
    source_guidance: Guidance = field(default_factory=Plain)  # of the old condition

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        require_linear(flow, "DeltaVelocity")
        dynamics = difference(x, cond, new_cond, rng, self.draws, self.source_guidance, self._lack, self.rate)
        return along(flow, x, sampler, dynamics, start=self.start)

    def _lack(self, t: Tensor) -> Tensor | float:
        """1 - eta."""
        return 1 - (self.shift * t if self.progressive else self.shift)


def difference(
    x: Tensor,
    cond: Cond,
    new_cond: Cond,
    rng: Rng,
    draws: int,
    source_guidance: Guidance,
    lack: Callable[[Tensor], Tensor | float] | None = None,
    rate: float = 1.0,
) -> Callable[[Drift], Dynamics]:
    """The dynamics of DeltaVelocity with 1 - eta = ``lack(t)`` [B,1,..]; without it those of FlowEdit, eta = 1."""

    def dynamics(drift: Drift) -> Dynamics:
        source, target = drift(cond, source_guidance), drift(new_cond)

        def moved(z: Tensor, t: Tensor, draw: int) -> Tensor:
            at = expand_time(t, x)
            noisy = at * x + (1 - at) * noise_at(rng, t, x, draw)
            apart = z - x  # 0 exactly where nothing has moved
            if lack is None:
                return target(noisy + apart, t) - source(noisy, t)
            missing = lack(at)
            shifted = noisy + (1 - missing * (1 - at)) * apart
            return target(shifted, t) - source(noisy, t) - missing * apart

        def f(z: Tensor, t: Tensor) -> Tensor:
            total = moved(z, t, 0)
            for draw in range(1, draws):
                total = total + moved(z, t, draw)
            return rate * (total / draws)

        return f

    return dynamics
