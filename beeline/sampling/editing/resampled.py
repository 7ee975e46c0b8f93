"""Edits that go back to a noisy state and forth under another condition."""

from __future__ import annotations

from dataclasses import field

from torch import Tensor

from beeline.core.protocols.editing import Inversion, State
from beeline.core.ranges import Early, Inside, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.inversions import Backwards, Noised
from beeline.sampling.sampler import Sampler
from beeline.solvers.wrappers import complete


@dataclass(frozen=True)
class InvertAndSample:
    """Inverts under the old condition and samples under the new one.

    x_s = inversion(x, cond);  y = sampler(x_s, new_cond) from time s = ``start`` to 1
    With equal conditions it gives the data back up to the error of the inversion.
    Source: Song, Meng and Ermon 2020 (arXiv 2010.02502), and Hertz et al. 2022 (arXiv 2208.01626).

    >>> InvertAndSample().start
    0.0
    """

    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time of the state between; later ones keep more of the data

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        state = self.inversion(flow, x, cond, sampler, rng, self.start)
        return resumed(sampler, flow, state, new_cond)


def resumed(sampler: Sampler, flow: Flow, state: State, cond: Cond) -> Tensor:
    """The data [B,*S] to which a sampler leads from a state; exact for the inverse of a solver with two copies."""
    if state.augmented is None:
        return sampler(flow, state.x, cond, start=state.t)
    whole = sampler(flow, state.augmented, cond, start=state.t, augmented=True)
    return complete(sampler.solver).lower(whole)


@dataclass(frozen=True)
class SDEdit:
    """Adds noise to the data and samples under the new condition.

    x_s = s x + (1 - s) z;  y = sampler(x_s, new_cond) from time s = ``start`` to 1
    The old condition is not used.  Later starts keep more of the data, and change less.
    Source: Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations"
    (arXiv 2108.01073).

    >>> SDEdit(0.4).start
    0.4
    """

    start: Inside = 0.3  # time up to which the data are noised

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        return InvertAndSample(Noised(), self.start)(flow, x, cond, new_cond, sampler, rng)
