"""Branches that let tokens skip feeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.ranges import Count, Positive, Share, dataclass
from beeline.networks.branches.branch import Branch, BranchModule, Funnel, Place, Site
from beeline.networks.branches.places import Feeds
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.blocks import modulated
from beeline.networks.transformer.feeds import FeedForward, SwiGLU
from beeline.networks.transformer.layout import WHOLE, Layout

TEMPERATURE, OPEN, LEAST = 5.0, 5.0, 0.1  # of the sigmoid, the first logit, and the least share of a feed


class Dispatcher(BranchModule):
    """A gate of tokens before a feed, and a funnel that all of them take."""

    def __init__(self, width: int, rank: int, rate: float, scale: float):
        super().__init__()
        self.rate, self.scale = rate, scale
        self.funnel, self.gate = Funnel(width, rank), nn.Linear(width, 1)
        nn.init.constant_(self.gate.bias, OPEN)

    def logits(self, h: Tensor, told: Sequence[Tensor]) -> Tensor:
        """Of the gate [B,N], from the tokens as the feed reads them, which know the time."""
        u = modulated(h, told[0], told[1])
        found: Tensor = self.gate(u.to(self.gate.weight.dtype))[..., 0]
        return found

    def act(self, inner: Callable[..., Any], layer: nn.Module, gain: float, x: Any, *told: Any) -> Any:
        chunks, layout = told
        z = self.logits(x, chunks)
        own = (self.scale * self.funnel(x)).to(x.dtype)
        if self.gathers(layout) and gain == 1:
            out, notes = self.gathered(inner, x, z > 0, chunks, layout)
            return out + own, notes
        out, notes = inner(x, chunks, layout)
        if self.training:
            with torch.no_grad():
                u = nn.init.uniform_(torch.empty_like(z), 1e-6, 1 - 1e-6)
            soft = ((z + u.logit()) / TEMPERATURE).sigmoid()
            opened, through = soft > 0.5, (soft - soft.detach())[..., None].to(x.dtype)
            made = torch.where(opened[..., None], out, x) + through * (out - x)
            share = (opened.to(soft.dtype) + soft - soft.detach()).mean()
        else:
            opened = z > 0
            made, share = torch.where(opened[..., None], out, x), opened.to(z.dtype).mean()
        made = made + own
        found = {"rate": (share - self.rate).square() + (LEAST - share).relu(), "open": share.detach()}
        return made if gain == 1 else out + gain * (made - out), {**notes, **found}

    def gathers(self, layout: Layout) -> bool:
        """Whether only the tokens that take the feed are evaluated."""
        compiled = torch.compiler.is_compiling()
        return not (self.training or torch.is_grad_enabled() or compiled or layout.noting) and layout.part is WHOLE

    def gathered(
        self, inner: Callable[..., Any], h: Tensor, opened: Tensor, chunks: Sequence[Tensor], layout: Layout
    ) -> tuple[Tensor, Any]:
        """The tokens, of which those that are open took the feed, and the notes of the feed."""
        some = [part.expand_as(h)[opened][None] for part in chunks]
        fed, notes = inner(h[opened][None], some, layout)
        return h.index_put((opened,), fed[0]), notes


@dataclass(frozen=True)
class Dispatch(Branch):
    """A gate that lets tokens skip the feed of a block, and two small layers that all tokens take.

    h' = h + m gate feed(h) + scale (U relu(D h + d) + u),  m = [w . u(h, t) + b > 0] for every token, U = u = 0
    In training m has Gumbel noise and the gradient of a sigmoid; the loss has the term
    2 mean over blocks of (mean m - rate)^2 + max(0, 0.1 - mean m).  All tokens take the feed at first, b = 5.
    Without gradients the feed is evaluated for open tokens alone; their share without noise may differ from the rate by
    a tenth or more.  The paper holds the mean over all blocks at the rate; here each block has it.
    Assumes blocks with a feed of every token by itself, FeedForward or SwiGLU.
    Source: Zhao et al. 2024, "Dynamic Tuning Towards Parameter and Inference Efficiency for ViT Adaptation" (arXiv
    2403.11808).

    >>> Dispatch(rate=0.5).terms
    {'rate': 2.0}
    """

    rate: Share = 0.5  # of tokens that take the feed
    rank: Count = 16
    scale: Positive = 1.0  # of what is added; 0.1 in the paper
    terms: ClassVar[Mapping[str, float]] = {"rate": 2.0}

    @property
    def places(self) -> Sequence[Place]:
        return (Feeds(strict=True),)

    def build(self, site: Site) -> Dispatcher:
        net = site.net
        feed = net.settings["feed"] if isinstance(net, FlowTransformer) else None
        require(
            isinstance(feed, FeedForward | SwiGLU),
            f"Dispatch got a network with feed={type(feed).__name__}, which may look at other tokens; it evaluates "
            "feeds for some tokens: use feed=FeedForward or SwiGLU, or the branch Bottleneck",
        )
        return Dispatcher(site.width, self.rank, self.rate, self.scale)
