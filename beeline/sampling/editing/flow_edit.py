"""Edits by the difference of two velocities, without an inversion."""

from __future__ import annotations

from dataclasses import field

from torch import Tensor

from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, Early, dataclass
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
    of one covariance move by the difference of their means.
    Assumes a velocity field on the straight path.  The guidance of the new condition is that of the sampler.
    Source: Kulikov et al. 2024, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models"
    (arXiv 2412.08629).

    >>> FlowEdit(start=0.2).draws
    1
    """

    start: Early = 0.33  # time at which the edit begins; later ones keep more of the data
    draws: Count = 1  # of the noise e at every time, whose mean is taken
    source_guidance: Guidance = field(default_factory=Plain)  # of the old condition

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        require_linear(flow, "FlowEdit")

        def dynamics(drift: Drift) -> Dynamics:
            source, target = drift(cond, self.source_guidance), drift(new_cond)

            def moved(z: Tensor, t: Tensor, draw: int) -> Tensor:
                at = expand_time(t, x)
                noisy = at * x + (1 - at) * noise_at(rng, t, x, draw)
                return target(noisy + (z - x), t) - source(noisy, t)  # z - x is 0 exactly where nothing has moved

            def f(z: Tensor, t: Tensor) -> Tensor:
                total = moved(z, t, 0)
                for draw in range(1, self.draws):
                    total = total + moved(z, t, draw)
                return total / self.draws

            return f

        return along(flow, x, sampler, dynamics, start=self.start)
