"""Edits that keep data outside a region."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.editing import Edit, EditRegion, OwnChange
from beeline.core.protocols.steering import Controller, Run
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import ControllerBase, OfRun, affine_path


@dataclass(frozen=True)
class Kept(ControllerBase):
    """Leads the state to given data outside a region.

    v' = m v + (1 - m) u,  u the velocity of the path that ends in the data, (x1 - x) / (1 - t) on the straight path
    The difference of two drifts that are steered alike is 0 outside, as FlowEdit needs.  Runs towards the source are
    not changed.  For a state with several times the rows of the data, these are repeated.
    Assumes an affine path.

    >>> import torch
    >>> f = Kept(torch.ones(1, 1), torch.zeros(1, 1)).steer(lambda x, t: 0 * x, Flow(lambda x, t: 0 * x))
    >>> f(torch.zeros(1, 1), torch.full((1,), 0.5))
    tensor([[2.]])
    """

    x1: Tensor  # [B,*S] data
    region: Tensor  # in [0, 1], broadcast to [B,*S]: 1 may change

    def for_run(self, run: Run) -> Controller:
        times = host_times(run.times)
        rising = bool((times[-1] > times[0]).all())
        return self if rising else OfRun()

    def steer(self, f: Dynamics, flow: Flow) -> Dynamics:
        path = affine_path(flow, "an edit of a region")

        def steered(x: Tensor, t: Tensor) -> Tensor:
            v = f(x, t)
            more = len(x) // len(self.x1)
            x1, m = (part.to(x).repeat(more, *(1 for _ in part.shape[1:])) for part in (self.x1, self.region))
            before = t.clamp(max=1 - 1e-4)  # at t = 1 the velocity of the path is not determined by the state
            return v + (1 - m) * (path.velocity(x, before, x1=x1) - v)

        return steered

    def for_rows(self, start: int, end: int) -> Controller:
        return replace(self, x1=self.x1[start:end], region=self.region[start:end])


@dataclass(frozen=True)
class Within:
    """An edit that changes data inside a region alone.

    The drifts of the edit lead outside of the region to the data (``Kept``), so that what is inside is made to fit what
    stays; in the end the outside is that of the data, exactly.
    Source: the blending of latents of Avrahami et al. 2022, "Blended Latent Diffusion"
    (arXiv 2206.02779), in the drift.

    >>> Within("an edit", "a region").region
    'a region'
    """

    edit: Edit
    region: EditRegion

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        region = resolved(self.region, flow, x, cond, new_cond, rng)
        return kept(self.edit, region, flow, x, cond, new_cond, sampler, rng)


def changes_alone(edit: Edit) -> bool:
    """Whether an edit changes data also where both conditions are equal."""
    return isinstance(edit, OwnChange) or (isinstance(edit, Within) and changes_alone(edit.edit))


def kept(
    edit: Edit, region: Tensor, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng
) -> Tensor:
    """An edit of data [B,*S] inside a known region [B,*S]."""
    how = replace(sampler, controllers=(*sampler.controllers, Kept(x, region)))
    made = edit(flow, x, cond, new_cond, how, rng)
    return x + region.to(made) * (made - x)


def resolved(region: EditRegion, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
    """The weights [B,*S] of a region; raises ValueError for another shape, values outside [0, 1] and an empty one."""
    found = region(flow, x, cond, new_cond, rng).to(x)
    try:
        found = found.expand(x.shape)
    except RuntimeError:
        found = found.new_empty(0)
    require(
        found.shape == x.shape,
        f"the region has another shape than the data, which are {tuple(x.shape[1:])}; give one weight for every "
        "position, as a mask of the size of the picture",
    )
    require(
        bool(((found >= 0) & (found <= 1)).all()),
        f"the region has weights from {float(found.min()):.3g} to {float(found.max()):.3g}; 1 may change and 0 is "
        "kept: give weights in [0, 1]",
    )
    empty = (found.flatten(1).amax(1) == 0).nonzero()[:, 0].tolist()
    require(
        not empty,
        f"the region is empty for the data with the numbers {empty[:5]}, so that nothing may change; mark what may "
        "change by 1 (white)",
    )
    return found
