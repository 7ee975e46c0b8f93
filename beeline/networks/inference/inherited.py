"""Blocks whose change of the features is kept from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.declared import Wrapping
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.types import Cond
from beeline.networks.skipping import block_names, check_names, with_forward, without_blocks


class Inherited(Wrapping):
    """A velocity field some of whose blocks are computed in every n-th evaluation of a run alone.

    h <- h + c_k in between, with c_k = block_k(h') - h' of the last evaluation in which block k was computed
    Blocks whose input and output differ in shape repeat their output.  The first evaluation, and those from the time
    ``until``, are in full.  Outside of a run every evaluation is.
    Assumes a solver that evaluates in the order of time.
    Source: Ding et al. 2024, "A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance"
    (arXiv 2406.00210); Li et al. 2023, "Faster Diffusion" (arXiv 2312.09608), for the blocks of an encoder.

    >>> from beeline.networks.dit import DiT
    >>> Inherited(DiT((1, 8, 8), width=16, depth=4, heads=2)).names
    ('block.1', 'block.2')
    """

    is_flow_map = False

    def __init__(self, field: nn.Module, blocks: Sequence[str] = (), every: int = 2, until: float = 0.95):
        super().__init__()
        known = block_names(field)
        self.names = tuple(blocks) or known[len(known) // 4 : len(known) - len(known) // 4]
        check_names(field, self.names)
        require(
            every >= 1 and 0 <= until <= 1,
            f"Inherited got every={every} and until={until}; it computes its blocks in every n-th evaluation until a "
            "time: give a number from 1, and a time from 0 to 1",
        )
        self.field, self.every, self.until = field, every, until

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "blocks": list(self.names), "every": self.every, "until": self.until}

    def for_branch(self) -> nn.Module:
        """The field for one condition of one run, with an empty memory."""
        return InheritedRun(self)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        v: Tensor = self.field(x, t, cond)
        return v


class InheritedRun(nn.Module):
    """The evaluations of one run."""

    def __init__(self, net: Inherited):
        super().__init__()
        self.every, self.until = net.every, net.until
        self.known: dict[str, Tensor] = {}
        self.evaluations, self.rows, self.reuses = 0, 0, False
        self.field = with_forward(net.field, net.names, self.change)

    def change(self, name: str, block: nn.Module) -> Callable[..., Tensor]:
        """The forward pass of a block that keeps its change."""
        own = block.forward

        def forward(h: Tensor, *rest: Any) -> Tensor:
            if not self.reuses:
                out: Tensor = own(h, *rest)
                self.known[name] = out - h if out.shape == h.shape else out
                return out
            kept = self.known[name]
            return h + kept if kept.shape == h.shape else kept

        return forward

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        late = float(host_times(t).max()) >= self.until - 1e-6
        self.reuses = self.evaluations % self.every > 0 and self.rows == len(x) and not late
        v: Tensor = self.field(x, t, cond)
        self.evaluations, self.rows = self.evaluations + 1, len(x)
        return v


def removal_order(
    field: nn.Module, loss: Callable[[Any], float], count: int, names: Sequence[str] = ()
) -> list[tuple[str, float]]:
    """Blocks in the order of their removal: each time that whose removal leaves the lowest loss, with that loss.

    ``loss`` takes a field; the others are ranked anew after every removal.  ``names`` are candidates; all blocks by
    default.
    Source: Li et al. 2023, "SnapFusion" (arXiv 2306.00980), its evaluation of blocks.
    """
    left = list(names or block_names(field))
    gone: list[tuple[str, float]] = []
    require(
        0 <= count <= len(left),
        f"removal_order got count={count} for {len(left)} blocks; give a number from 0 to {len(left)}",
    )
    for _ in range(count):
        with torch.no_grad():
            losses = {name: loss(without_blocks(field, [*(k for k, _ in gone), name])) for name in left}
        best = min(left, key=lambda name: losses[name])
        gone.append((best, losses[best]))
        left.remove(best)
    return gone
