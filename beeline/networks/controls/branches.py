"""Controls with blocks of their own beside those of the network."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Stages
from beeline.core.errors import require
from beeline.core.ranges import Count, dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.amounts import Apart
from beeline.networks.adapters.delta import changed_layers
from beeline.networks.attention import attend
from beeline.networks.controls.control import Ask, Control, PlacedModule, added, check_plain, places_of
from beeline.networks.fp32 import layer_norm, zeroed
from beeline.networks.patches import to_patches
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import After


class Branch(PlacedModule):
    """Own blocks that read the tokens of the network and of the hint, and add to tokens at some visits."""

    def __init__(self, net: FlowTransformer, channels: int, places: tuple[int, ...], blocks: nn.ModuleList):
        super().__init__()
        width = net.settings["width"]
        self.patch, self.places, self.block = net.patch, places, blocks
        self.inp = nn.Sequential(
            nn.Linear(channels * net.patch ** len(net.grid), width), nn.SiLU(), zeroed(nn.Linear(width, width))
        )
        self.out = nn.ModuleList(zeroed(nn.Linear(width, width)) for _ in places)

    def read(self, hint: Tensor, ask: Ask) -> Tensor:
        tokens: Tensor = self.inp(to_patches(hint, self.patch))
        return tokens

    def act(self, read: Tensor, stages: Stages, gain: Tensor) -> tuple[Stages, After]:
        n = stages.told[-1][1].tokens
        g, after = torch.cat([stages.h[:, :n] + read, stages.h[:, n:]], 1), {}
        for k, block, out in zip(self.places, self.block, self.out, strict=True):
            e, layout = stages.told[k]
            g = block(g, e, layout._replace(noting=False, hints=(), heard=None))
            after[k] = added(out(g[:, :n]), gain)
        return stages, after


@dataclass(frozen=True)
class ControlBranch(Control):
    """A trained copy of the first blocks, which reads the hint (ControlNet).

    g = h_0 + Z E(hint),  g <- copy_k(g),  h_k <- h_k + strength Z_k g,  Z = Z_k = 0 at first
    Its cost is that of its blocks: half of an evaluation more for half of the blocks.
    Source: Zhang, Rao and Agrawala 2023 (arXiv 2302.05543); for transformers: Chen et al. 2024 (arXiv 2401.05252).

    >>> ControlBranch(blocks=2)
    ControlBranch(blocks=2)
    """

    blocks: Count | None = None  # that are copied, the first ones; none: half of them

    def build(self, net: FlowTransformer, channels: int, name: str) -> Branch:
        check_plain(net, self)
        visits = net.visits
        count = max(1, len(visits) // 2) if self.blocks is None else self.blocks
        require(
            count <= len(visits),
            f"ControlBranch got blocks={count} for a network with {len(visits)}; it copies the first ones: give at "
            f"most {len(visits)}",
        )
        copies = nn.ModuleList(copy.deepcopy(block).requires_grad_(True) for _, block in visits[:count])
        for layer in changed_layers(copies).values():  # those of other controls act on the tokens of their hints alone
            layer.changes = nn.ModuleList(c for c in layer.changes if not isinstance(c.amount, Apart))
        return Branch(net, channels, tuple(range(count)), copies)


class ShuffleMixer(nn.Module):
    """Attention in random groups of tokens and of channels, then a layer over all channels (TDSM)."""

    def __init__(self, width: int, groups: int, seed: int):
        super().__init__()
        require(
            width % groups == 0,
            f"RelaCtrl got groups={groups} for a network of width {width}; channels are divided into equal groups: "
            f"give a divisor of {width}",
        )
        self.groups, self.seed = groups, seed
        self.qkv = nn.Linear(width // groups, 3 * width // groups)
        self.mix = nn.Linear(width, width)

    def forward(self, h: Tensor, e: Tensor, layout: Any) -> Tensor:
        n = layout.tokens
        own = h[:, :n]
        u = self.shuffled(layer_norm(own))  # [B, groups of tokens, groups of channels, tokens, channels]
        q, k, v = self.qkv(u).chunk(3, -1)
        mixed = self.restored(attend(q, k, v), own.shape)
        return torch.cat([own + self.mix(mixed), h[:, n:]], 1)

    def order(self, length: int, of: str, like: Tensor) -> Tensor:
        """A fixed permutation of tokens or channels."""
        return _permutation(self.seed, of, length).to(like.device)

    def shuffled(self, u: Tensor) -> Tensor:
        """Tokens [B,N,D] in groups, [B, token groups, channel groups, N / groups, D / groups]."""
        rows, columns = self.order(u.shape[1], "tokens", u), self.order(u.shape[2], "channels", u)
        some = token_groups(u.shape[1], self.groups)
        return u[:, rows][..., columns].unflatten(1, (some, -1)).unflatten(3, (self.groups, -1)).transpose(2, 3)

    def restored(self, u: Tensor, shape: torch.Size) -> Tensor:
        """The opposite of ``shuffled``."""
        rows, columns = self.order(shape[1], "tokens", u), self.order(shape[2], "channels", u)
        back = u.transpose(2, 3).flatten(3).flatten(1, 2)
        return back[:, rows.argsort()][..., columns.argsort()]


@functools.lru_cache(maxsize=256)
def _permutation(seed: int, of: str, length: int) -> Tensor:
    return Rng(seed).fork(of).permutation(length)


def token_groups(tokens: int, groups: int) -> int:
    """The largest number up to ``groups`` that divides a number of tokens."""
    return next(n for n in range(groups, 0, -1) if tokens % n == 0)


@dataclass(frozen=True)
class RelaCtrl(Control):
    """Cheap blocks at the visits that matter most for the control.

    g = h_0 + Z E(hint),  g <- g + W unshuffle(attention in groups(shuffle(norm(g)))),  h_k <- h_k + strength Z_k g
    Tokens and channels are divided into groups by fixed random permutations.  ``relevance`` ranks the visits of a
    trained ControlBranch; without places it is every second visit.
    Source: Cao et al. 2025, "RelaCtrl: Relevance-Guided Efficient Control for Diffusion Transformers" (arXiv
    2502.14377).

    >>> RelaCtrl(places=(0, 3))
    RelaCtrl(places=(0, 3), groups=4)
    """

    places: tuple[int, ...] = ()  # numbers of visits of blocks
    groups: Count = 4  # of tokens and of channels

    def build(self, net: FlowTransformer, channels: int, name: str) -> Branch:
        places = places_of(net, self.places or tuple(range(0, len(net.visits), 2)), self)
        width = net.settings["width"]
        return Branch(net, channels, places, nn.ModuleList(ShuffleMixer(width, self.groups, k) for k in places))
