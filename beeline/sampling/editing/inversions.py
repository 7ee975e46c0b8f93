"""Inversions: from data to the state of a flow that leads to them."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.editing import State
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Range, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import noise, noising_path, plain
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from beeline.solvers.wrappers import complete


@dataclass(frozen=True)
class Backwards:
    """The solver of the sampler, from the data towards the source.

    dx/dt = v(x, t, cond) from t = 1 to ``end``
    Its error is that of the solver in both directions; ``FixedPoint`` and ``Symmetric`` invert their own steps.
    Without guidance by default: guidance makes the velocity vary faster, the inverse less exact, and the noise far from
    a normal distribution.  A datum without a known condition is inverted under the null, which guidance refuses.
    Source: Song, Meng and Ermon 2020, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), DDIM inversion.

    >>> Backwards().guidance
    Plain()
    """

    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State:
        return backwards(flow, x, cond, replace(plain(sampler), guidance=self.guidance), end)


def backwards(flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, end: float, start: float = 1.0) -> State:
    """The state at ``end`` of a run of a sampler from states [B,*S] at ``start`` towards the source.

    Raises ValueError for a flow map, and for a solver that adds noise.
    """
    require(
        not is_map(flow.field) and (flow.trained is None or not flow.trained.fixed),
        "an inversion got a flow map or a student of few steps, which has learned to jump towards the data alone; "
        "invert with the flow that it was distilled from, or start from fresh noise: SDEdit()",
    )
    solver = complete(sampler.solver)
    require(
        not solver.traits.stochastic,
        f"an inversion got the solver {type(sampler.solver).__name__}, which adds noise, so that the way back is "
        "another one; use HEUN, MidpointReuse() or Symmetric(), or Controlled(stochastic=True)",
    )
    if not solver.traits.augmented_state:
        return State(sampler.invert(flow, x, cond, start=start, end=end), end)
    whole = sampler.invert(flow, solver.lift(x), cond, start=start, end=end, augmented=True)
    return State(solver.lower(whole), end, whole)


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
        path = noising_path(flow, "Noised")
        return State(path.point(noise(rng, x), x, torch.full((len(x),), end, device=x.device)).x, end)


@dataclass(frozen=True)
class NoisedThenBackwards:
    """Fresh noise near the data, and the solver backwards from there.

    x_s = a(s) x + b(s) z at s = ``until``;  dx/dt = v(x, t, cond) from s to ``end``
    The last part of a run before the data is the one that is hardest to invert; the noise replaces it, so that states
    are typical ones.  The data come back up to what the noise covers.  ``until`` 1 is ``Backwards``.
    Assumes an affine path and a Gaussian source.
    Source: Kim et al. 2025, "ReFlex: Text-Guided Editing of Real Images in Rectified Flow via Mid-Step Feature
    Extraction and Attention Adaptation" (arXiv 2507.01496).

    >>> NoisedThenBackwards().until
    0.9
    """

    until: Annotated[float, Range(above=0, most=1)] = 0.9  # time down to which the data are noised
    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, sampler: Sampler, rng: Rng, end: float) -> State:
        if self.until == 1:
            return Backwards(self.guidance)(flow, x, cond, sampler, rng, end)
        state = Noised()(flow, x, cond, sampler, rng, max(self.until, end))
        if state.t == end:
            return state
        return backwards(flow, state.x, cond, replace(plain(sampler), guidance=self.guidance), end, state.t)
