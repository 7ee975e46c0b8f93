"""A background that is filled by attention to itself."""

from __future__ import annotations

from dataclasses import field, replace

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import traits_of, unwrapped
from beeline.core.errors import require
from beeline.core.protocols.editing import EditRegion, Inversion, OwnChange
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attention import SelfAttention
from beeline.networks.hooks import named_blocks
from beeline.networks.skipping import Shortens, block_names
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.inpaint import region_of_run
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.keeping import Kept
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class MaskedKeys(OwnChange):
    """Fills a region by attention to what is outside of it: no token attends to the tokens of the region (DesignEdit).

    attention = softmax over the keys outside of the region and those of a text;  x_0 = noise inside, the inversion
    of x outside;  the outside is led to the data
    A token of which a pixel is inside is inside; for data whose tokens all are, attention is unchanged.
    Assumes a network that declares the tokens of an image (``Traits.tokens``), such as networks.DiT.
    Source: Jia et al. 2024, "DesignEdit" (arXiv 2403.14487), key-masking self-attention; there the inside starts at its
    own inversion, which holds the object.

    >>> MaskedKeys().blocks
    ()
    """

    region: EditRegion | None = None  # None: the region of the run
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none is all with attention
    inversion: Inversion = field(default_factory=Backwards)

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        grids = traits_of(flow.field).tokens
        require(
            grids is not None,
            f"MaskedKeys got {type(flow.field).__name__}, which does not declare the tokens of an image; use a "
            "transformer such as networks.DiT, or editing.Inpaint()",
        )
        assert grids is not None
        grid = grids(tuple(x.shape[1:]))
        region, how = region_of_run(self.region, flow, x, cond, new_cond, sampler, rng, "MaskedKeys")
        tokens = F.adaptive_max_pool2d(region.amax(1, keepdim=True).float(), (grid.rows, grid.columns)).flatten(1) > 0

        def attend(a: ImageAttention) -> Tensor:
            return without_keys(a, tokens.repeat(len(a.q) // len(tokens), 1))

        field = with_attention(flow.field, self.blocks or attentive(flow.field), attend)
        state = self.inversion(flow, x, cond, sampler, rng, 0.0)
        start = torch.where(region > 0, noise(rng, x), state.x)
        how = replace(how, controllers=(*how.controllers, Kept(x, region)))
        return x + region * (how(replace(flow, field=field), start, new_cond) - x)


def attentive(field: object) -> tuple[str, ...]:
    """The names of the blocks with attention; all blocks of a network of another library."""
    known, inner = block_names(field), unwrapped(field)
    if isinstance(inner, Shortens):
        return known
    parts = named_blocks(inner)
    return tuple(k for k in known if any(isinstance(m, SelfAttention) for m in parts[k].modules())) or known


def without_keys(a: ImageAttention, tokens: Tensor) -> Tensor:
    """Attention without some tokens of the image as keys, ``tokens`` [B,N]; a row of them all is not changed."""
    gone = tokens & ~tokens.all(1, keepdim=True)
    allowed = torch.ones(len(a.q), 1, 1, a.q.shape[2], dtype=torch.bool, device=a.q.device)
    allowed[..., a.image] = ~gone[:, None, None].to(a.q.device)
    if a.mask is None or a.mask.dtype == torch.bool:
        return a.softmax(mask=allowed if a.mask is None else a.mask & allowed)
    return a.softmax(mask=a.mask.masked_fill(~allowed, -torch.inf))
