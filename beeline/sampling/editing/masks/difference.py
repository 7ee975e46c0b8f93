"""The region in which the velocities of two conditions differ."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.editing import Threshold
from beeline.core.protocols.flows import Guidance
from beeline.core.ranges import Count, Inside, NonNegative, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.masks.thresholds import Otsu, by_position, marked
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.steering.controller import affine_path


@dataclass(frozen=True)
class Difference:
    """Where the velocities of noisy data differ between both conditions (DiffEdit).

    size = E_e |v(x_t, t, new_cond) - v(x_t, t, cond)|,  x_t the datum with noise e;  m = threshold(size)
    At t = ``time``, with the mean over channels; the noise is the same for both conditions.
    Assumes an affine path and a Gaussian source.
    Source: Couairon et al. 2022, "DiffEdit" (arXiv 2210.11427), with a threshold that follows from the data.

    >>> Difference(draws=4).time
    0.5
    """

    time: Inside = 0.5  # of the noisy data
    draws: Count = 8  # of the noise, two evaluations each
    threshold: Threshold = field(default_factory=Otsu)
    deviation: NonNegative = 0.0  # of the blur before the threshold, in pixels
    dilation: Whole = 0  # pixels by which the region is widened
    guidance: Guidance = field(default_factory=Plain)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        path = affine_path(flow, "Difference")
        check_together("the data", x, flow, self.guidance)
        t = torch.full((len(x),), self.time, device=x.device)
        old, new = (
            self.guidance(flow.field, map_cond(lambda leaf: leaf.to(x.device), tree)) for tree in (cond, new_cond)
        )
        size = torch.zeros_like(by_position(x))
        with eval_mode(flow, self.guidance), deferred():
            for draw in range(self.draws):
                noisy = path.point(noise(rng, x, draw), x, t).x
                size = size + by_position((new(noisy, t) - old(noisy, t)).abs()) / self.draws
        return marked(size, self.threshold, self.deviation, self.dilation, "Difference").expand(x.shape)
