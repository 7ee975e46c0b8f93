"""An old network with its adapters that guides a new one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.fields.flow import bind
from beeline.networks.fp32 import zeroed
from beeline.networks.hooks import block_hooks, named_blocks


class Bridged(Wrapping):
    """A frozen new network whose blocks are given those of a frozen old one, which may carry adapters.

    h_l <- h_l + M_l h_old_l',  l' the block of the old network at the same relative depth,  M_l = 0 at first
    The maps M are trained with the old network without adapters; adapters of the old one (``with_old``) then act on
    the new one.  The old network is evaluated without a graph and, unless ``conditioned``, without conditions.
    Assumes both flows on the same path and data, and blocks with features of the same positions [B,...,C].
    Source: Ran et al. 2024, "X-Adapter: Adding Universal Compatibility of Plugins for Upgraded Diffusion Model" (arXiv
    2312.02238), without its first stage of the old network alone.

    >>> from beeline.networks.mlp import MLP
    >>> new, old = MLP(2, width=16), MLP(2, width=8)
    >>> Bridged(new, old, channels=[16] * 3, given=[8] * 3)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self, field: nn.Module, old: nn.Module, channels: Sequence[int], given: Sequence[int], conditioned: bool = False
    ):
        super().__init__()
        depths = len(named_blocks(field)), len(named_blocks(old))
        require(
            (len(channels), len(given)) == depths and min(depths) >= 1,
            f"Bridged got channels={list(channels)} and given={list(given)} for networks of {depths[0]} and "
            f"{depths[1]} blocks; every block has one number of output channels: give one for each",
        )
        self.field, self.old = field.requires_grad_(False), old.requires_grad_(False)
        self.channels, self.given, self.conditioned = list(channels), list(given), conditioned
        self.source = [round(k * (depths[1] - 1) / max(depths[0] - 1, 1)) for k in range(depths[0])]
        self.maps = nn.ModuleList(zeroed(nn.Linear(given[j], n)) for j, n in zip(self.source, channels, strict=True))
        weight = next(field.parameters(), None)
        self.maps.to(None if weight is None else weight.device)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        more = {"channels": self.channels, "given": self.given, "conditioned": self.conditioned}
        return {"field": self.field, "old": self.old, **more}

    def with_old(self, old: nn.Module) -> Bridged:
        """A copy with another old network of the same sizes, such as one with adapters."""
        made = copy.deepcopy(self)
        made.old = copy.deepcopy(old).requires_grad_(False)
        return made

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        seen: dict[str, Tensor] = {}
        names = list(named_blocks(self.old))
        with torch.no_grad(), block_hooks(self.old, {name: _noting(seen, name) for name in names}):
            bind(self.old, cond if self.conditioned else None)(x, t)

        def adding(k: int) -> Any:
            given, to = seen[names[self.source[k]]], self.maps[k]

            def act(h: Tensor) -> Tensor:
                change: Tensor = to(given.to(next(to.parameters()).dtype))
                require(
                    change.shape == h.shape,
                    f"the block {names[self.source[k]]} of the old network has features {tuple(given.shape)}, and that "
                    f"of the new one {tuple(h.shape)}; they need the same positions: use networks of equal patches",
                )
                return h + change.to(h.dtype)

            return act

        with block_hooks(self.field, {name: adding(k) for k, name in enumerate(named_blocks(self.field))}):
            return bind(self.field, cond)(x, t)


def _noting(seen: dict[str, Tensor], name: str) -> Any:
    """The function of the output of a block that notes it."""

    def note(h: Tensor) -> None:
        seen[name] = h

    return note
