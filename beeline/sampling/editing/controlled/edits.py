"""Controlled inversion, and edits of a controlled inversion and a run led to the data."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.protocols.editing import Inversion, State
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import NonNegative, Positive, Share, check_window, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.controlled.towards import Towards, Transported
from beeline.sampling.editing.dynamics import noise, noising_path
from beeline.sampling.editing.inversions import backwards
from beeline.sampling.editing.resampled import resumed
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class Controlled:
    """An inversion that is led to noise, so that what it gives is nearer to a normal distribution.

    dx/dt = v + gamma (c - v),  c the velocity of the path that comes from y ~ N(0, I), (x - y) / t on the straight path
    y is drawn once.  ``stochastic``: the rectified SDE dx = -(x - gamma y) / (1 - s) ds + (2 s / (1 - s))^(1/2) dW in
    s = 1 - t, solved exactly: x_t = t x + (1 - t) (gamma y + e).  It takes no evaluations; its noise has the variance
    1 + gamma^2, and gamma 0 is ``Noised``.
    With gamma above 0 the way back is another one: the round trip is not exact, by design.
    Source: Rout et al. 2024 (arXiv 2410.10792).

    >>> Controlled().gamma
    0.5
    """

    gamma: Share = 0.5  # 0 is ``Backwards``, 1 leads to y itself
    stochastic: bool = False
    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State:
        y = noise(rng, x, "target")
        if self.stochastic:
            path = noising_path(flow, "Controlled")
            at = torch.full((len(x),), end, device=x.device)
            return State(path.point(self.gamma * y + noise(rng, x), x, at).x, end)
        leading = (Towards(y, self.gamma),) if self.gamma else ()
        return backwards(flow, x, cond, replace(sampler, guidance=self.guidance, controllers=leading), end)


@dataclass(frozen=True)
class RFInversion:
    """Inverts with a control to noise, and samples under the new condition with a control to the data in early steps.

    x_0 = Controlled(gamma);  dx/dt = v(x, t, new_cond) + eta (u - v),  u = (x1 - x) / (1 - t),  eta as in ``Towards``
    Larger strengths and windows keep more.  With strength 1 in the whole run the data are given back; without control
    (gamma 0, strength 0) it is InvertAndSample.  With gamma above 0 and a short window also equal conditions change the
    data, by design.  The SDE: a stochastic solver of the sampler such as EulerMaruyama, with
    ``inversion=Controlled(stochastic=True)``.  The controls are taken at the times of the grid, which the pipeline of
    the authors does not do on shifted grids.
    Source: Rout et al. 2024, "Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations"
    (arXiv 2410.10792), RF-Inversion.

    >>> RFInversion().window
    (0.0, 0.25)
    """

    inversion: Inversion = field(default_factory=Controlled)
    strength: Share = 0.9  # eta; 0.9 to 1 is usual
    window: tuple[float, float] = (0.0, 0.25)  # times at which the control acts
    decay: NonNegative = 0.0  # power of 1 - t by which the strength falls

    def __post_init__(self) -> None:
        check_window(type(self).__name__, self.window)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        state = self.inversion(flow, x, cond, sampler, rng, 0.0)
        leading = (Towards(x, self.strength, self.window, self.decay),) if self.strength else ()
        return resumed(replace(sampler, controllers=(*leading, *sampler.controllers)), flow, state, new_cond)


@dataclass(frozen=True)
class TransportGuided(RFInversion):
    """RF-Inversion after a displacement of optimal transport in early steps.

    The drift is that of ``Transported``, then that of RFInversion.  ``transport`` 0 is RFInversion.
    Unless ``balanced`` it is RFInversion with other strengths, 1 - (1 - eta) (1 - lam).  Where the strength of
    RFInversion is 1 the transport has no effect: with the settings of the authors, strength 1 up to t = 0.25 and
    ``until`` 0.3, it acts in the times between alone.
    Source: "Transport-Guided Rectified Flow Inversion: Improved Image Editing Using Optimal Transport Theory"
    (arXiv 2508.02363).

    >>> TransportGuided(strength=0.5).transport
    0.1
    """

    transport: Share = 0.1  # the largest weight of the transport
    until: Share = 0.3  # time at which its weight has fallen to 0
    longest: Positive = 10.0  # norm of the displacement at one position
    balanced: bool = False  # scale the transport to the size of the velocity

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        if self.transport:
            moved = Transported(x, self.transport, self.until, self.longest, balanced=self.balanced)
            sampler = replace(sampler, controllers=(moved, *sampler.controllers))
        return super().__call__(flow, x, cond, new_cond, sampler, rng)
