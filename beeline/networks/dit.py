"""Diffusion transformers: presets of the flow transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from beeline.core.errors import require
from beeline.networks.embed import Conditions, TokenEmbedding
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import AdaLNZero, JointBlock, Modulation, Parallel, Sizes, Wiring
from beeline.networks.transformer.feeds import Feed, FeedForward
from beeline.networks.transformer.mixers import Attention, Mixer
from beeline.networks.transformer.plans.plan import Plain, Plan
from beeline.networks.transformer.positions import Positions, SinCos
from beeline.networks.transformer.reading import DualJointBlock, LastJointBlock

STREAMS = ("x", "text")


class DiT(FlowTransformer):
    """A transformer over the patches of an image, modulated by time and condition (adaLN-zero).

    tokens = W patches + positions;  depth blocks;  output = unpatch(W (norm(tokens) (1 + scale) + shift))
    Assumes [B,C,*sides] of the configured size, or of any with ``any_size``; a side that is no multiple of the patch is
    padded with zeros and cropped again.
    Source: Peebles and Xie 2022 (arXiv 2212.09748), adaLN-zero; QK-norm: Esser et al. 2024 (arXiv 2403.03206).

    >>> import torch
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

    >>> import torch
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
        dual: int = 0,  # first joint blocks with a second mixing of the datum alone, as in SD3.5
        closed: bool = False,  # the last joint block changes the datum alone, as in SD3; for single=0
        ratio: float = 4.0,
        any_size: bool = False,
        scale: float = 1000.0,
        features: int = 64,
        steps: int | None = None,
        mixer: Mixer = Attention(),
        feed: Feed = FeedForward(),
        positions: Positions = SinCos(),
        wiring: Wiring = Parallel(),  # of the single blocks
        modulation: Modulation = AdaLNZero(),
        plan: Plan = Plain(),
    ):
        require(
            bool(conditions),
            f"{type(self).__name__} got no conditions; it has a stream of their tokens: train it on data with "
            "conditions, or use DiT",
        )
        name = type(self).__name__
        require(single >= 0, f"{name} got single={single}; it is a number of blocks: set 0 or more")
        require(
            0 <= dual <= depth - closed and not (closed and single),
            f"{name} got depth={depth}, single={single}, dual={dual} and closed={closed}; a closed block is the last "
            f"one and has one attention: set dual to 0 to {depth - closed}, and single=0 or closed=false",
        )
        super().__init__(
            shape, patch, width, depth, heads, conditions, span, dropout, ratio=ratio, any_size=any_size, scale=scale,
            features=features, steps=steps, mixer=mixer, feed=feed, positions=positions, wiring=wiring,
            modulation=modulation, plan=plan,
        )  # fmt: skip
        self.settings |= {"single": single, "dual": dual, "closed": closed}
        sizes, slots = Sizes(width, heads, int(width * ratio), dropout, self.grid), (mixer, feed, modulation)
        self.single = nn.ModuleList(wiring.build(sizes, *slots) for _ in range(single))
        self.visiting()
        self.text = self.text or TokenEmbedding(width, self.embed.cond.conditions)
        for i in range(dual):
            self.joint[i] = DualJointBlock(sizes, *slots, STREAMS)
        if closed:
            self.joint[-1] = LastJointBlock(sizes, *slots, STREAMS)

    def parts(self, sizes: Sizes, depth: int, mixer: Mixer, feed: Feed, wiring: Wiring, modulation: Modulation) -> None:
        self.joint = nn.ModuleList(JointBlock(sizes, mixer, feed, modulation, STREAMS) for _ in range(depth))
        self.single = nn.ModuleList()

    @property
    def stacks(self) -> Mapping[str, nn.ModuleList]:
        return {"joint": self.joint, "single": self.single}
