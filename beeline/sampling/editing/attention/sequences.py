"""Edits of the maps of attention: emphasis, replacement, and shifts along a sequence."""

from __future__ import annotations

from dataclasses import field, replace

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.editing import Inversion, OwnChange
from beeline.core.ranges import Early, NonNegative, Share, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.functions import reweighted_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import chosen_blocks
from beeline.sampling.editing.attention.paired import Paired
from beeline.sampling.editing.attention.parts import EARLIER, end_of_steps
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class Emphasised(OwnChange):
    """Samples from the inverted noise with more or less attention to some tokens, such as frames or words.

    y_i = sum_j g_j p_ij v_j,  g = ``factor`` for the ``tokens``, and 1 for others;  rows keep no sum of 1
    It also changes data whose conditions are equal: the emphasis is the edit.
    Assumes a network that declares its tokens, as ``DiT((C, 1, L), patch=1)`` for sequences of L frames; for words
    joint attention with a text.
    Source: Chen et al. 2024, "MotionCLR: Motion Generation and Training-free Editing via Understanding Attention
    Mechanisms" (arXiv 2410.18977), (de-)emphasising.

    >>> Emphasised((2, 3), factor=0.5).of_text
    False
    """

    tokens: tuple[Whole, ...] = ()  # indices, row by row; none are all
    factor: NonNegative = 1.0  # of the attention to them; 1 is InvertAndSample
    of_text: bool = False  # whether they are tokens of the text
    share: Share = 1.0  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.0, 1.0)  # interval of the depth: all blocks
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        names = chosen_blocks(flow.field, self.blocks, self.depth)
        until = end_of_steps(sampler, self.start, round(self.share * sampler.steps)) - EARLIER
        attend = lambda a: self.emphasised(a) if a.time < until else a.softmax()  # noqa: E731
        edit = InvertAndSample(self.inversion, self.start)
        if self.factor == 1 or self.share == 0:
            return edit(flow, x, cond, new_cond, sampler, rng)
        state = self.inversion(flow, x, cond, sampler, rng, self.start)
        changed = replace(flow, field=with_attention(flow.field, names, attend))
        return sampler(changed, state.x, new_cond, start=state.t)

    def emphasised(self, a: ImageAttention) -> Tensor:
        """The output [B,H,L,D] of attention; the queries of a text are as they were."""
        where = a.text if self.of_text else a.image
        count = where.stop - where.start
        require(
            count > max(self.tokens, default=0),
            f"Emphasised got tokens={self.tokens}, of_text={self.of_text} and {count} such tokens; give indices from "
            "0, and of_text=True only for a network with joint attention",
        )
        gain = torch.ones(a.q.shape[2], a.k.shape[2], device=a.q.device)
        chosen = torch.tensor(self.tokens or range(count), device=a.q.device) + where.start
        gain[a.image] = gain[a.image].index_fill(1, chosen, self.factor)
        return reweighted_attention(a, gain)


@dataclass(frozen=True)
class SharedMaps(Paired):
    """The weights of attention of the source, with values of the edited data (in-place replacement).

    y = softmax(q_source k_source' / sqrt(D)) v
    What happens where is that of the source; what it looks like, of the new condition.
    Assumes a network that declares its tokens.
    Source: Chen et al. 2024, "MotionCLR" (arXiv 2410.18977), replacement; Hertz et al. 2022, "Prompt-to-Prompt"
    (arXiv 2208.01626).

    >>> SharedMaps(share=0.5).depth
    (0.0, 1.0)
    """

    share: Share = 0.5  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.0, 1.0)  # interval of the depth: all blocks
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        return source.softmax(v=target.v)


@dataclass(frozen=True)
class ShiftedMaps(Paired, OwnChange):
    """Attention of the source, moved by some tokens along the sequence: what it does, it does later.

    y_i = sum_j p_source_{i-n,j} v_source_j,  n = ``shift``, with the end continued at the beginning
    It also changes data whose conditions are equal: the shift is the edit.
    Assumes a network that declares its tokens, in one row.
    Source: Chen et al. 2024, "MotionCLR" (arXiv 2410.18977), shifting in time.

    >>> ShiftedMaps(3).acts
    True
    """

    shift: int = 0  # tokens; 0 is InvertAndSample
    share: Share = 0.5  # of the steps, from the noise
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.0, 1.0)  # interval of the depth: all blocks
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time at which the edit begins

    @property
    def acts(self) -> bool:
        return self.shift != 0

    def mix(self, source: ImageAttention, target: ImageAttention) -> Tensor:
        require(
            source.grid.rows == 1,
            f"ShiftedMaps got a grid of {source.grid.rows} x {source.grid.columns} tokens; it moves along a sequence: "
            "use a network with one row of tokens, as DiT((C, 1, L), patch=1)",
        )
        y, image = target.softmax().clone(), target.image
        y[:, :, image] = source.softmax()[:, :, image].roll(self.shift, 2)
        return y
