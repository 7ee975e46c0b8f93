"""Edits of an object before a background that is filled."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import Edit, EditRegion, Inversion, LayerOperation, OwnChange
from beeline.core.protocols.flows import Reference
from beeline.core.ranges import Early, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.inpaint import Inpaint
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.keeping import Kept, kept, resolved
from beeline.sampling.editing.layers.operations import Move, copies, gathered, rendered
from beeline.sampling.editing.masks.thresholds import dilated
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class Layered(OwnChange):
    """Moves, resizes, copies, mirrors or removes an object: its layer before a filled background (DesignEdit).

    b = fill(x) where the object was;  x_s, b_s = inversions to time s = ``start``
    y = sampler(copies of the object of x_s before b_s, new_cond) from s to 1
    What is neither under the object nor under a copy of it is kept exactly; a layer that is pasted at several times
    replaces the earlier ones, so that it is pasted once.  With operations that change nothing and ``dilation`` 0 the
    data come back up to the error of the inversion.
    Assumes pictures [B,C,H,W].
    Source: Jia et al. 2024, "DesignEdit" (arXiv 2403.14487); the background is by default sampled given the rest, and
    with ``fill=MaskedKeys()`` as in the source.

    >>> from beeline.sampling.editing.regions import GivenRegion
    >>> Layered(GivenRegion((1.0,)), (Move(right=2),)).start
    0.5
    """

    region: EditRegion  # the object
    operations: tuple[LayerOperation, ...]  # each on the copies of the one before it
    fill: Edit = field(default_factory=Inpaint)  # of the background under the object
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.5  # time at which the layers are pasted; later ones change less
    dilation: Whole = 1  # pixels around the object that belong to its shadow, and are filled
    background: Reference | None = (
        None  # gives the condition of the fill, as OtherCondition({"label": 0}); None: the new
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        mask = object_mask(self.region, flow, x, cond, new_cond, rng, "Layered")
        hole = dilated(mask, self.dilation)
        places = copies(self.operations, mask)
        field, empty = (flow.field, new_cond) if self.background is None else self.background(flow.field, new_cond)
        run = (cond, empty, sampler, rng.fork("fill"))
        behind = kept(self.fill, hole.expand_as(x), replace(flow, field=field), x, *run)
        state, under = (
            self.inversion(flow, part, cond, sampler, rng.fork("inversion"), self.start) for part in (x, behind)
        )
        _, seen = rendered(behind, x, mask, places)
        changed = torch.stack([hole, *seen]).amax(0)
        canvas, _ = rendered(torch.where(hole > 0, under.x, state.x), state.x, mask, places)
        how = replace(sampler, controllers=(*sampler.controllers, Kept(x, changed.expand_as(x))))
        return torch.where(changed > 0, how(flow, canvas, new_cond, start=state.t), x)


@dataclass(frozen=True)
class Pan(OwnChange):
    """Moves the whole picture, and fills what comes into view (outpainting).

    y = x_(i - down, j - right) where it is known, and fill(y) elsewhere
    Assumes pictures [B,C,H,W].
    Source: Jia et al. 2024, "DesignEdit" (arXiv 2403.14487), camera panning.

    >>> Pan(right=2).right
    2
    """

    down: int = 0  # pixels; negative is up
    right: int = 0  # pixels; negative is left
    fill: Edit = field(default_factory=Inpaint)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        known = torch.ones_like(x[:, :1])
        place = Move(self.down, self.right)(known)[0]
        moved, new = gathered(x, place), 1 - gathered(known, place)
        if not bool(new.any()):
            return moved
        return kept(self.fill, new.expand_as(x), flow, moved, cond, new_cond, sampler, rng)


def object_mask(region: EditRegion, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng, whose: str) -> Tensor:
    """The pixels [B,1,H,W] of an object, 0 or 1."""
    require(
        x.ndim == 4,
        f"{whose} got data of shape {tuple(x.shape[1:])}; an object has rows and columns: use it on pictures",
    )
    return (resolved(region, flow, x, cond, new_cond, rng.fork("object")).amax(1, keepdim=True) > 0.5).to(x)
