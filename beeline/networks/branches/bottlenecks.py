"""Branches of two small layers beside blocks and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from beeline.core.ranges import Count, Positive, dataclass
from beeline.networks.branches.branch import Added, Branch, Funnel, Place, Site
from beeline.networks.branches.places import Feeds, Inputs, Mixings
from beeline.networks.fp32 import layer_norm


class Parallel(Added):
    """A funnel that reads the input of a layer, and is added to its output."""

    def __init__(self, width: int, rank: int, scale: float, norm: bool):
        super().__init__()
        self.funnel, self.scale, self.norm = Funnel(width, rank), scale, norm

    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        made: Tensor = self.funnel(layer_norm(x) if self.norm else x)
        return self.scale * made


@dataclass(frozen=True)
class Bottleneck(Branch):
    """Two small layers beside the feed of every block, which read the tokens before they are modulated.

    h' = block(h) + scale (U relu(D h + d) + u),  U = u = 0 at first
    It is added outside of the gate of the feed, so that it also acts where the gate is zero.  It costs
    4 rank width products a token in every block for good.
    Source: Chen et al. 2022, "AdaptFormer" (arXiv 2205.13535).

    >>> Bottleneck(rank=8).both
    False
    """

    rank: Count = 16
    scale: Positive = 1.0  # of what is added; 0.1 in the paper
    both: bool = False  # a second one beside the mixing of tokens
    norm: bool = False  # normalise what it reads

    @property
    def places(self) -> Sequence[Place]:
        return (Mixings(), Feeds()) if self.both else (Feeds(),)

    def build(self, site: Site) -> Parallel:
        return Parallel(site.width, self.rank, self.scale, self.norm)


class Link(Added):
    """A funnel of the output of a layer, which is added to it."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.funnel = Funnel(width, rank)

    def added(self, layer: nn.Module, x: Any, y: Tensor, *told: Any) -> Tensor:
        made: Tensor = self.funnel(y)
        return made


@dataclass(frozen=True)
class InputLink(Branch):
    """Two small layers at the embedded patches of the datum, and others at the tokens of conditions.

    e' = e + U relu(D e + d) + u,  U = u = 0 at first
    No block changes: what needs another block, it cannot express.
    Source: Wang et al. 2023, "Non-Intrusive Adaptation", AdaLink (arXiv 2310.12100).

    >>> InputLink(rank=8).data
    True
    """

    rank: Count = 16
    data: bool = True  # at the patches of the datum
    conditions: bool = True  # at the tokens of conditions, where the network has a stream for them

    @property
    def places(self) -> Sequence[Place]:
        return (Inputs(self.data, self.conditions),)

    def build(self, site: Site) -> Link:
        return Link(site.width, self.rank)
