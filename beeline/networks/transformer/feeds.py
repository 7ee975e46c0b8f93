"""Feeds: what a block computes of every token by itself.  A feed is a setting that builds the module of a block."""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from beeline.core.ranges import Range, dataclass
from beeline.networks.transformer.layout import NONE, WHOLE, Layout, Notes


class Feed(Protocol):
    """What is computed of every token; ``build`` gives a module (tokens [B,N,D], layout) -> (tokens, notes)."""

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        """The module for tokens of ``width`` channels and ``hidden`` channels inside."""
        ...


class Dense(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, dropout: float, gelu: nn.GELU | None = None):
        gelu = gelu or nn.GELU()
        super().__init__(nn.Linear(width, hidden), gelu, nn.Dropout(dropout), nn.Linear(hidden, width))

    def forward(self, h: Tensor, layout: Layout | None = None) -> tuple[Tensor, Notes]:  # type: ignore[override]
        if layout is None or layout.part is WHOLE:
            return super().forward(h), NONE
        return layout.part.fed(self[3](layout.part.hidden(self[2](self[1](self[0](h)))))), NONE


@dataclass(frozen=True)
class FeedForward:
    """Two linear layers.

    y = W2 gelu(W1 u)
    Source: Vaswani et al. 2017 (arXiv 1706.03762).

    >>> FeedForward()
    FeedForward(tanh=False)
    """

    tanh: bool = False  # the approximation of gelu by tanh, with which many published weights were trained

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        return Dense(width, hidden, dropout, nn.GELU("tanh") if self.tanh else nn.GELU())


class Gated(nn.Module):
    """Two linear layers with a gate."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.up, self.dropout, self.down = nn.Linear(width, 2 * hidden), nn.Dropout(dropout), nn.Linear(hidden, width)

    def forward(self, h: Tensor, layout: Layout) -> tuple[Tensor, Notes]:
        gate, value = self.up(h).chunk(2, -1)
        out: Tensor = self.down(layout.part.hidden(self.dropout(F.silu(gate) * value)))
        return layout.part.fed(out), NONE


@dataclass(frozen=True)
class SwiGLU:
    """A gated feed with two thirds of the hidden channels, and so about as many weights as FeedForward.

    y = W2 (silu(W1 u) * W3 u)
    Source: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv 2002.05202).

    >>> SwiGLU()
    SwiGLU()
    """

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        return Gated(width, max(1, 2 * hidden // 3), dropout)


class Cauchy(nn.Module):
    """The activation (l1 z + l2) / (z^2 + a^2) with learned l1, l2 and a."""

    def __init__(self, floor: float):
        super().__init__()
        self.floor = floor
        self.first, self.second = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.raw = nn.Parameter(torch.tensor(1.0 - floor).expm1().log())  # a is 1 at first

    def forward(self, z: Tensor) -> Tensor:
        a = self.floor + F.softplus(self.raw)
        return (self.first * z + self.second) / (z.square() + a.square())


class CauchyDense(Dense):
    """Two linear layers with the activation of Cauchy between them."""

    def __init__(self, width: int, hidden: int, dropout: float, floor: float):
        super().__init__(width, hidden, dropout)
        self[1] = Cauchy(floor)


@dataclass(frozen=True)
class CauchyFeed:
    """Two linear layers with a rational activation, for smooth fields of few dimensions.

    y = W2 phi(W1 u),  phi(z) = (l1 z + l2) / (z^2 + a^2),  l1 = l2 = a = 1 at first
    |phi| is at most |l1| / (2 a) + |l2| / a^2, and falls to 0 for large z.
    Source: Li, Xia and Zhang 2024, "Cauchy activation function and XNet" (arXiv 2409.19221).

    >>> CauchyFeed().floor
    0.1
    """

    floor: Annotated[float, Range(above=0, below=1)] = 0.1  # least a

    def build(self, width: int, hidden: int, dropout: float) -> nn.Module:
        return CauchyDense(width, hidden, dropout, self.floor)
