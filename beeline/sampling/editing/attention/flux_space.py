"""Directions in the outputs of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import Inversion
from beeline.core.ranges import Early, NonNegative, Share, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, Dynamics, map_cond
from beeline.fields.flow import Flow
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import chosen_blocks
from beeline.sampling.editing.attention.parts import EARLIER, differing, end_of_steps, grouped, members, with_image
from beeline.sampling.editing.dynamics import Drift, along, to_device
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.guidance.guide import Unconditional
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class FluxSpace:
    """Adds to attention under the old condition the direction in which the new one leads (FluxSpace).

    a <- a + s m d,  d = a_e - (<a_e, a_0> / |a_0|^2) a_0 for every token over the features of all heads
    a, a_0 and a_e are outputs for the picture under the old, the null and the new condition, with the same queries,
    keys and values of the picture where there is a text, else with those of each condition; m = [sigmoid(10 (w - 1/2))
    >= threshold], w the attention to the ``words`` of the new text between 0 and 1, and 1 without a text.
    ``coarse`` moves the pooled embedding alike: p <- p + coarse (p_e - proj_p p_e).  Rows with equal conditions are not
    changed.  Three conditions are evaluated for every velocity.
    Assumes a null condition, and a network that declares the tokens of an image.
    Source: Dalva et al. 2024, "FluxSpace: Disentangled Semantic Editing in Rectified Flow Transformers"
    (arXiv 2412.09611).

    >>> FluxSpace(strength=2.0).threshold
    0.5
    """

    strength: NonNegative = 4.0  # of the direction; 0 gives the data back
    coarse: NonNegative = 0.0  # of the change of the pooled embedding
    pooled: str = "pooled"  # the name of its condition
    words: tuple[Whole, ...] = ()  # indices of tokens of the new text; none are all
    threshold: Share = 0.5  # of the attention to the words; 0 is every token
    late: Share = 0.1  # of the steps, from the noise, that are left as they are
    null: Any = None  # as of CFG
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.0, 1.0)  # interval of the depth: all blocks
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        names = chosen_blocks(flow.field, self.blocks, self.depth)
        if self.strength == 0 and self.coarse == 0:
            return InvertAndSample(self.inversion, self.start)(flow, x, cond, cond, sampler, rng)
        cond, new_cond = to_device(cond, x), to_device(new_cond, x)
        base = self._moved(cond, new_cond)
        null = Unconditional(self.null).for_flow(flow)(flow.field, cond)[1]
        conds = map_cond(lambda *leaf: torch.cat(leaf), base, null, new_cond)
        since = end_of_steps(sampler, self.start, round(self.late * sampler.steps)) - EARLIER
        changed = differing(cond, new_cond, x)

        def attend(a: ImageAttention) -> Tensor:
            if a.time < since or self.strength == 0:
                return a.softmax()
            base, none, new = members(a, 3, len(changed))
            return grouped(self.outputs(base, none, new, changed), len(changed))

        def dynamics(drift: Drift) -> Dynamics:
            f = drift(conds)
            return lambda z, t: f(torch.cat([z] * 3), torch.cat([t] * 3))[: len(z)]

        state = self.inversion(flow, x, cond, sampler, rng, self.start)
        directed = replace(flow, field=with_attention(flow.field, names, attend))
        return along(directed, state.x, sampler, dynamics, start=state.t)

    def outputs(
        self, base: ImageAttention, null: ImageAttention, new: ImageAttention, changed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs [B,H,L,D] under the old, the null and the new condition."""
        if base.text.stop > base.text.start:
            null, new = (of_picture(a, base) for a in (null, new))
        a, a0, ae = base.softmax(), null.softmax(), new.softmax()
        d = direction(ae[:, :, base.image], a0[:, :, base.image])
        rows = changed.repeat(len(a) // len(changed))[:, None, None, None]
        m = self.mask(new)[:, None, :, None] * rows
        moved = a.clone()
        moved[:, :, base.image] += (self.strength * m * d).to(a.dtype)
        return moved, a0, ae

    def mask(self, new: ImageAttention) -> Tensor:
        """Which tokens [B,N] of the picture attend to the words."""
        text, image = new.text, new.image
        if text.stop == text.start or self.threshold == 0:
            return torch.ones(len(new.q), image.stop - image.start, device=new.q.device)
        require(
            max(self.words, default=0) < text.stop - text.start,
            f"FluxSpace got words={self.words} for a text of {text.stop - text.start} tokens; give indices from 0",
        )
        w = new.weights()[:, :, image, text].mean(1)
        w = (w[..., list(self.words)] if self.words else w).mean(-1)
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        return (torch.sigmoid(10 * ((w - low) / (high - low).clamp(min=1e-12) - 0.5)) >= self.threshold).float()

    def _moved(self, cond: Cond, new_cond: Cond) -> Cond:
        """The old condition with the pooled embedding moved towards the new one."""
        if self.coarse == 0:
            return cond
        require(
            isinstance(cond, Mapping) and isinstance(new_cond, Mapping) and self.pooled in cond,
            f"FluxSpace got coarse={self.coarse} and no condition {self.pooled!r}; it moves a pooled embedding of a "
            "text: set coarse=0, or name it with pooled='...'",
        )
        assert isinstance(cond, Mapping) and isinstance(new_cond, Mapping)
        p, pe = cond[self.pooled], new_cond[self.pooled]
        assert isinstance(p, Tensor) and isinstance(pe, Tensor)
        share = (p * pe).sum(-1, keepdim=True) / p.square().sum(-1, keepdim=True).clamp(min=1e-12)
        return {**cond, self.pooled: p + self.coarse * (pe - share * p)}


def of_picture(a: ImageAttention, other: ImageAttention) -> ImageAttention:
    """An attention in which the tokens of the picture are those of another one."""
    return replace(a, q=with_image(a.q, a, other.q), k=with_image(a.k, a, other.k), v=with_image(a.v, a, other.v))


def direction(ae: Tensor, a0: Tensor) -> Tensor:
    """What outputs [B,H,N,D] have beside others, for every token over the features of all heads, in float32."""
    ae, a0 = ae.float(), a0.float()
    share = (ae * a0).sum((1, 3), keepdim=True) / a0.square().sum((1, 3), keepdim=True).clamp(min=1e-12)
    return ae - share * a0
