"""A branch that reads the probabilities of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from beeline.core.modes import wide
from beeline.core.ranges import Count, NonNegative, Positive, Range, dataclass
from beeline.networks.branches.branch import Added, Branch, Funnel, Place, Site
from beeline.networks.branches.places import Attentions

SMALLEST = 1e-2  # distance of two values, relative to the mean


def message_weights(weights: Tensor, values: Tensor, p: float) -> Tensor:
    """Attention [...,N,N] times the power p - 2 of weighted distances of values [...,N,d]; with p=2 itself."""
    if p == 2:
        return weights
    squares = values.square().sum(-1)
    apart = squares[..., :, None] + squares[..., None, :] - 2 * values @ values.mT
    far = weights * apart.clamp(min=0.0)
    least = SMALLEST**2 * far.detach().mean((-2, -1), keepdim=True) + torch.finfo(far.dtype).tiny
    return weights * far.clamp(min=least).pow(p / 2 - 1)


class Messages(Added):
    """A funnel of values that were passed on by attention with other weights."""

    def __init__(self, width: int, rank: int, p: float, mu: float, scale: float):
        super().__init__()
        self.p, self.mu, self.scale = p, mu, scale
        self.funnel = Funnel(width, rank)

    def passed(self, layer: Any, x: Tensor, layout: Any) -> Tensor:
        """The values [B,N,D] that tokens are sent."""
        q, k, v = (wide(part) for part in layer.divided(x))
        logits = layout.turned(q) @ layout.turned(k).mT * q.shape[-1] ** -0.5
        bias = layout.bias(k)
        if bias is not None:
            logits = logits.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else logits + bias
        w = message_weights(logits.softmax(-1), v, self.p)
        kept = 2 * self.mu / self.p
        sent = (w @ v + kept * v) / (w.sum(-1, keepdim=True) + kept)
        return sent.transpose(1, 2).flatten(2)

    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        made: Tensor = self.funnel(self.passed(layer, x, told[-1]))
        return self.scale * made


@dataclass(frozen=True)
class PLaplace(Branch):
    """Two small layers beside attention that read values after another message passing over its graph.

    g_n = (sum_m w_nm v_m + (2 mu / p) v_n) / (sum_m w_nm + 2 mu / p),  w_nm = P_nm (P_nm^1/2 |v_n - v_m|)^(p-2)
    y' = y + scale (U relu(D g + d) + u),  P the probabilities of attention, U = u = 0 at first
    p=2 with mu=0 is attention itself; p < 2 strengthens messages between similar values, p > 2 those between others.
    Distances below a hundredth of the mean count as that.  It needs all probabilities in memory.
    Assumes blocks with softmax attention over one stream of tokens; rows of P have the degree 1.
    Source: Wu et al. 2023, "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models" (arXiv
    2312.10613); the message passing: Fu, Zhao and Bian 2021, "p-Laplacian Based Graph Neural
    Networks" (arXiv 2111.07337).

    >>> PLaplace(rank=8).p
    1.5
    """

    p: Annotated[float, Range(least=1.0, most=4.0)] = 1.5  # 1.25 to 2.5 is usual
    mu: NonNegative = 0.1  # how much a token keeps of its own value
    rank: Count = 16
    scale: Positive = 1.0  # of what is added; 0.1 in the paper

    @property
    def places(self) -> Sequence[Place]:
        return (Attentions(),)

    def build(self, site: Site) -> Messages:
        return Messages(site.width, self.rank, self.p, self.mu, self.scale)
