"""Data sampled anew inside a region, given what is outside of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import EditRegion, OwnChange
from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.keeping import Kept, resolved
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.controller import affine_path
from beeline.sampling.steering.energies.measured import Measured
from beeline.sampling.steering.inverse.moments import MomentMatching
from beeline.sampling.steering.operators.masks import Mask


@dataclass(frozen=True)
class Inpaint(OwnChange):
    """Samples the inside of a region from its distribution given the outside, under the new condition.

    y ~ p(x1 | x1 = x where m = 0, new_cond), by MomentMatching on the values outside
    What is outside is kept exactly.  The result does not depend on what was inside, also with equal conditions: it is a
    new sample, not an edit of the old one.  Replacing the outside of states by noisy data instead is not conditional:
    the inside does not come to fit.  Exact for Gaussian data with ``iterations`` at least the number of values outside.
    Where a region is given to the run (``--mask``, ``Within``) it is that one.  Weights above 0 are inside.
    Assumes an affine path, a Gaussian source and a network that can be differentiated.
    Source: Rozet et al. 2024 (arXiv 2405.13712), for the conditional distribution.

    >>> Inpaint().iterations
    5
    """

    region: EditRegion | None = None  # None: the region of the run
    iterations: Count = 5  # of MomentMatching, a backward pass each
    noise: Positive = 0.01  # of the values outside, in units of encoded data

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        affine_path(flow, "Inpaint")
        inside, how = region_of_run(self.region, flow, x, cond, new_cond, sampler, rng, "Inpaint")
        inside = inside > 0
        if not bool(inside.all()):
            measured = Measured(Mask((~inside).float()), torch.where(inside, 0, x), self.noise)
            how = replace(how, controllers=(*how.controllers, MomentMatching(measured, self.iterations)))
        return torch.where(inside, how(flow, noise(rng, x), new_cond), x)


def region_of_run(
    given: EditRegion | None, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng, whose: str
) -> tuple[Tensor, Sampler]:
    """The region [B,*S] of an edit that keeps the outside itself, and the sampler without ``Kept``.

    It is the one that is given, inside of that of the run; raises ValueError where there is none.
    """
    kept = [c for c in sampler.controllers if isinstance(c, Kept)]
    others = tuple(c for c in sampler.controllers if not isinstance(c, Kept))
    parts = [part.region.to(x).expand(x.shape) for part in kept]
    if given is not None:
        parts.append(resolved(given, flow, x, cond, new_cond, rng.fork("region")))
    require(
        parts,
        f"{whose} has no region; it changes a part of the data alone: give a mask, --mask FILE or region=",
    )
    return torch.stack(parts).amin(0), replace(sampler, controllers=others)
