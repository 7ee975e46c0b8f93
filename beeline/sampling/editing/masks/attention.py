"""The region to which tokens of a text belong."""

from __future__ import annotations

from dataclasses import field

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import require
from beeline.core.modes import check_together, deferred, eval_mode
from beeline.core.protocols.editing import Threshold
from beeline.core.ranges import Count, Inside, NonNegative, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Flow
from beeline.sampling.editing.dynamics import noise
from beeline.sampling.editing.masks.thresholds import Otsu, dilated, marked
from beeline.sampling.guidance.composition.attention_maps import RecordedAttention, text_maps
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.steering.controller import affine_path


@dataclass(frozen=True)
class AttentionRegion:
    """Where the tokens of a picture attend to chosen tokens of a text.

    size = E_e mean over the tokens of maps / their means,  maps = S' C as in AttentionRegions;  m = threshold(size)
    The attention is that of the datum with noise e at t = ``time``, a mean over heads and layers.
    Assumes a transformer with joint attention that declares its image tokens, such as FLUX and Stable Diffusion 3.
    Source: Hertz et al. 2022, "Prompt-to-Prompt" (arXiv 2208.01626), local editing, with the maps of Shen et al. 2024
    (arXiv 2404.05384).

    >>> AttentionRegion((2, 3)).tokens
    (2, 3)
    """

    tokens: tuple[Whole, ...]  # indices of tokens of the text, from 0
    of_new: bool = False  # take the text of the new condition
    time: Inside = 0.5  # of the noisy data
    draws: Count = 2  # of the noise, an evaluation each
    threshold: Threshold = field(default_factory=Otsu)
    deviation: NonNegative = 0.5  # of the blur before the threshold, in tokens
    dilation: Whole = 0  # pixels by which the region is widened

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        require(self.tokens, "AttentionRegion got no tokens; give the indices of tokens of the text, counted from 0")

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, rng: Rng) -> Tensor:
        path, grids = affine_path(flow, "AttentionRegion"), traits_of(flow.field).tokens
        require(
            grids is not None,
            f"AttentionRegion got {type(flow.field).__name__}, which does not declare its image tokens; use a bundle "
            "of FLUX or Stable Diffusion 3, or editing.Difference()",
        )
        assert grids is not None
        check_together("the data", x, flow)
        grid, t = grids(tuple(x.shape[1:])), torch.full((len(x),), self.time, device=x.device)
        v = Plain()(flow.field, map_cond(lambda leaf: leaf.to(x.device), new_cond if self.of_new else cond))
        sizes = []
        with eval_mode(flow), deferred():
            for draw in range(self.draws):
                with RecordedAttention(grid) as recorded:
                    v(path.point(noise(rng, x, draw), x, t).x, t)
                maps = text_maps(recorded, grid, self.tokens, "AttentionRegion")
                sizes.append((maps / maps.mean((2, 3), keepdim=True).clamp(min=1e-12)).mean(1, keepdim=True))
        m = marked(torch.stack(sizes).mean(0), self.threshold, self.deviation, 0, "AttentionRegion")
        return dilated(F.interpolate(m.to(x), size=x.shape[2:], mode="nearest"), self.dilation).expand(x.shape)
