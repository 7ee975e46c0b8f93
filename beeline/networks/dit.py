"""Diffusion transformers: presets of the flow transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.embed import Conditions, TokenEmbedding
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import AdaLNZero, JointBlock, Modulation, Parallel, Sizes, Wiring
from beeline.networks.transformer.feeds import Feed, FeedForward
from beeline.networks.transformer.mixers import Attention, Mixer
from beeline.networks.transformer.positions import Positions, SinCos

STREAMS = ("x", "text")


class DiT(FlowTransformer):
    """A transformer over the patches of an image, modulated by time and condition (adaLN-zero).

    tokens = W patches + positions;  depth blocks;  output = unpatch(W (norm(tokens) (1 + scale) + shift))
    Assumes [B,C,*sides] of the configured size, or of any with ``any_size``; a side that is no multiple of the patch is
    padded with zeros and cropped again.
    Source: Peebles and Xie 2022 (arXiv 2212.09748), adaLN-zero; QK-norm: Esser et al. 2024 (arXiv 2403.03206).

    >>> DiT((1, 8, 8), width=32, depth=1)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """


class UViT(FlowTransformer):
    """A transformer whose second half also reads the tokens of the first (long skips).

    h <- W [h, h_i] before block depth - 1 - i, with W = [1, 0] at first;  all else as DiT
    The paper gives time and label as tokens; here they modulate the blocks as in DiT.
    Source: Bao et al. 2022, "All are Worth Words" (arXiv 2209.12152).

    >>> len(UViT((1, 8, 8), width=32, depth=5).skip)
    2
    """

    skips = True


class MMDiT(FlowTransformer):
    """A transformer with a stream of the datum and one of its conditions, mixed together (MM-DiT).

    h_s <- h_s + gate_s mix([u_x, u_text])_s,  h_s <- h_s + gate_s feed_s(u_s),  u_s = norm(h_s) (1 + scale_s) + shift_s
    Joint blocks have weights of their own for each stream and one attention over the tokens of both; then come
    ``single`` blocks on all tokens, with parallel branches unless ``wiring`` says otherwise.  The tokens are those of
    the sequences among the conditions, such as embeddings of a text, and labels and vectors modulate; without sequences
    every condition gives one token, beside the modulation.
    Source: Esser et al. 2024, "Scaling Rectified Flow Transformers" (arXiv 2403.03206); single-stream blocks: Black
    Forest Labs 2024, FLUX.1.

    >>> net = MMDiT((1, 8, 8), width=32, depth=1, single=1, conditions={"label": {"classes": 10}})
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 10])).shape
    torch.Size([2, 1, 8, 8])
    """

    sequences = False  # of conditions are tokens, and not part of the modulation

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 128,
        depth: int = 3,  # joint blocks
        heads: int = 4,
        conditions: Conditions | None = None,
        span: bool = False,
        dropout: float = 0.0,
        *,
        single: int = 0,  # blocks on the joined stream, after the joint ones
        ratio: float = 4.0,
        any_size: bool = False,
        scale: float = 1000.0,
        mixer: Mixer = Attention(),
        feed: Feed = FeedForward(),
        positions: Positions = SinCos(),
        wiring: Wiring = Parallel(),  # of the single blocks
        modulation: Modulation = AdaLNZero(),
    ):
        require(
            bool(conditions),
            "MMDiT got no conditions; it has a stream of their tokens: train it on data with conditions, or use DiT",
        )
        require(single >= 0, f"MMDiT got single={single}; it is a number of blocks: set 0 or more")
        super().__init__(
            shape, patch, width, depth, heads, conditions, span, dropout, ratio=ratio, any_size=any_size, scale=scale,
            mixer=mixer, feed=feed, positions=positions, wiring=wiring, modulation=modulation,
        )  # fmt: skip
        self.settings["single"] = single
        sizes = Sizes(width, heads, int(width * ratio), dropout, self.grid)
        self.single = nn.ModuleList(wiring.build(sizes, mixer, feed, modulation) for _ in range(single))
        self.text = TokenEmbedding(width, self.embed.cond.conditions)

    def parts(self, sizes: Sizes, depth: int, mixer: Mixer, feed: Feed, wiring: Wiring, modulation: Modulation) -> None:
        self.joint = nn.ModuleList(JointBlock(sizes, mixer, feed, modulation, STREAMS) for _ in range(depth))

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"joint": self.joint, "single": self.single}

    def joined(self, h: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        text, keep = self.text.tokens(cond, h)
        if keep is not None:
            keep = torch.cat([torch.ones_like(h[..., 0], dtype=torch.bool), keep], 1)
        return torch.cat([h, text.to(h.dtype)], 1), keep
