"""Inversions: from data to the state of a flow that leads to them."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import State
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import described, noise, plain
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import affine_path
from beeline.solvers.wrappers import complete


@dataclass(frozen=True)
class Backwards:
    """The solver of the sampler, from the data towards the source.

    dx/dt = v(x, t, cond) from t = 1 to ``end``
    Its error is that of the solver in both directions; ``FixedPoint`` and ``Symmetric`` invert their own steps.
    Without guidance by default: guidance makes the velocity vary faster, and the inverse less exact.
    Source: Song, Meng and Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), DDIM inversion.

    >>> Backwards().guidance
    Plain()
    """

    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State:
        require(
            not complete(sampler.solver).traits.stochastic,
            f"an inversion got the solver {described(sampler.solver)}, which adds noise, so that the way back is "
            "another one; use HEUN, MidpointReuse() or Symmetric()",
        )
        how = replace(plain(sampler), guidance=self.guidance)
        return State(how.invert(flow, x, cond, end=end), end)


@dataclass(frozen=True)
class Noised:
    """Fresh noise in place of an inversion.

    x_t = a(t) x + b(t) z, z ~ N(0, I)
    It costs no evaluations; what the noise covers is lost.
    Assumes an affine path and a Gaussian source.
    Source: Meng et al. 2021, "SDEdit" (arXiv 2108.01073).

    >>> state = Noised()(Flow(lambda x, t: 0 * x), torch.ones(1, 1), None, Sampler(1), Rng(0), 0.5)
    >>> state.t
    0.5
    """

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State:
        path = affine_path(flow, "Noised")
        return State(path.point(noise(rng, x), x, torch.full((len(x),), end, device=x.device)).x, end)
