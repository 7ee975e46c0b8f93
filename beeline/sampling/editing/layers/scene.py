"""Several layouts of one scene, denoised jointly."""

from __future__ import annotations

import math
from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.protocols.editing import EditRegion, Inversion, LayerOperation, OwnChange, Places
from beeline.core.ranges import Count, Inside, NonNegative, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import Drift, along, noise, noise_at, require_linear
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.keeping import Kept
from beeline.sampling.editing.layers.layered import object_mask
from beeline.sampling.editing.layers.operations import axes, copies, inside, rendered, scattered
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class LayeredScene(OwnChange):
    """Moves, resizes or copies an object whose layer and background are denoised in several layouts at a time.

    dz_l/dt = mean over layouts, where layer l is seen, of v(layout, t, new_cond), taken back to its place
    The layouts are random shifts of the object, that of the operations, and with the weight ``anchor`` that of the
    datum, whose velocity is x - x_0.  From t = ``until`` the final layout is sampled alone.  The layers start from the
    inversion of the data, and the background under the object from noise.  What is neither under the object nor under
    a copy of it is kept exactly.
    Assumes pictures [B,C,H,W] and a velocity field on the straight path.
    Source: Ren et al. 2024, "Move Anything with Layered Scene Diffusion" (arXiv 2404.07178), image-anchored.

    >>> from beeline.sampling.editing.regions import GivenRegion
    >>> from beeline.sampling.editing.layers.operations import Move
    >>> LayeredScene(GivenRegion((1.0,)), (Move(right=2),)).views
    2
    """

    region: EditRegion  # the object
    operations: tuple[LayerOperation, ...]  # each on the copies of the one before it
    views: Count = 2  # random layouts at every time
    spread: Count = 2  # largest shift in them, in pixels
    anchor: NonNegative = 1.0  # weight of the layout of the datum; that of each other one is 1
    until: Inside = 0.6  # time up to which layouts are denoised jointly
    inversion: Inversion = field(default_factory=Backwards)

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        require_linear(flow, "LayeredScene")
        mask = object_mask(self.region, flow, x, cond, new_cond, rng, "LayeredScene")
        final = copies(self.operations, mask)
        x0 = self.inversion(flow, x, cond, sampler, rng, 0.0).x

        def dynamics(drift: Drift) -> Dynamics:
            velocity = drift(new_cond)

            def f(z: Tensor, t: Tensor) -> Tensor:
                front, behind = z.chunk(2, 1)
                slopes = [self.anchor * part * (x - x0) for part in (mask, 1 - mask)]
                weights = [self.anchor * mask, self.anchor * (1 - mask)]
                layouts = [final, *([shifted(rng, t, mask, self.spread, n)] for n in range(self.views))]
                for places in layouts:
                    view, seen = rendered(behind, front, mask, places)
                    v, free = velocity(view, t), 1 - sum(seen, torch.zeros_like(mask))
                    slopes[1], weights[1] = slopes[1] + free * v, weights[1] + free
                    for place, shown in zip(places, seen, strict=True):
                        slopes[0], weights[0] = (
                            slopes[0] + scattered(shown * v, place),
                            weights[0] + scattered(shown, place),
                        )
                return torch.cat([s / w.clamp(min=1e-6) for s, w in zip(slopes, weights, strict=True)], 1)

            return f

        layers = torch.cat([x0, torch.where(mask > 0, noise(rng, x, "behind"), x0)], 1)
        plain = replace(sampler, controllers=())
        front, behind = along(flow, layers, plain, dynamics, end=self.until).chunk(2, 1)
        canvas, seen = rendered(behind, front, mask, final)
        changed = torch.stack([mask, *seen]).amax(0)
        how = replace(sampler, controllers=(*sampler.controllers, Kept(x, changed.expand_as(x))))
        return torch.where(changed > 0, how(flow, canvas, new_cond, start=self.until), x)


def shifted(rng: Rng, t: Tensor, mask: Tensor, spread: int, number: int) -> Places:
    """Random shifts of an object by at most ``spread`` pixels, a function of the time."""
    z = noise_at(rng, t, mask.new_empty(len(mask), 2), "shift", number)
    shift = ((1 + (z / math.sqrt(2)).erf()) / 2 * (2 * spread + 1)).floor().clamp(max=2 * spread).long() - spread
    rows, columns = axes(mask)
    return inside(Places(rows - shift[:, :1], columns - shift[:, 1:]), mask)
