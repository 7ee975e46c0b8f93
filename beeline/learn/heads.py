"""Heads beside a network that a run has built: what an objective's ``wrap`` puts around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.types import Batch, require, take
from beeline.learn.heldout import quiet
from beeline.learn.objective import ask


class Head(nn.Module):
    """A small network from features to numbers of any shape: a probe, an encoder, a refiner.

    output = W h,  or W2 silu(W1 h) with a width
    Assumes features [B,size], or data of that many coordinates (flattened inside).
    Source: none.

    >>> Head(4, (2, 3))(torch.zeros(5, 4)).shape
    torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        size: int,  # numbers that come in, per sample
        shape: Sequence[int],  # of what goes out, per sample
        width: int = 0,  # of the layer between; 0 for none
        still: bool = False,  # whether it starts at zero
    ):
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "shape": [int(n) for n in shape], "width": width, "still": still}
        last = nn.Linear(width or size, math.prod(shape))
        if still:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), last) if width else nn.Sequential(last)

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return self.settings

    def forward(self, h: Tensor) -> Tensor:
        made: Tensor = self.layers(h.flatten(1))
        return made.reshape(len(h), *self.settings["shape"])


def place(field: Any, block: str = "") -> str:
    """The name of a module of a field: ``block``, or where it is empty the middle one of its repeated blocks."""
    if block:
        return block
    modules = dict(field.named_modules()) if isinstance(field, nn.Module) else {}
    blocks = next((stack for m in modules.values() for stack in getattr(m, "stacks", {}).values() if len(stack)), None)
    require(
        blocks is not None,
        f"{type(field).__name__} has no repeated blocks, of which the middle one could be taken; name the module whose "
        "output is meant: block='...'",
    )
    assert blocks is not None
    found: str = next(name for name, m in modules.items() if m is blocks[(len(blocks) - 1) // 2])
    return found


def width_at(network: nn.Module, block: str, batch: Batch, most: int, whose: object) -> int:
    """The number of features that a block puts out for one sample; at most ``most`` dimensions with the batch's."""
    from beeline.learn.regularise import captured, last

    few = take(batch, torch.arange(min(2, len(batch.x1))))
    with quiet(network), captured(network, block) as seen:
        ask(network, few.x1, torch.zeros(len(few.x1)), few.cond)
    h = last(seen, block)
    require(
        2 <= h.ndim <= most,
        f"{type(whose).__name__} was given {block!r}, whose features have the shape {tuple(h.shape)}; from a recipe it "
        f"reads {'vectors [B,D]' if most == 2 else 'vectors or tokens, the features last'}: use networks.MLP"
        f"{'' if most == 2 else ' or networks.DiT'}, or wrap the network in Python",
    )
    return h.shape[-1]


def check_objective(objective: Any) -> None:
    """Refuse an objective whose network cannot be made from a recipe."""
    program = getattr(objective, "program", None)
    require(
        program is None,
        f"{type(objective).__name__} cannot be named in a recipe: it needs more than a recipe can say; "
        f"use it from Python, as the program {program} does",
    )
    if hasattr(objective, "objective"):
        check_objective(objective.objective)
        require(
            not hasattr(objective.objective, "wrap"),
            f"{type(objective).__name__} was put around {type(objective.objective).__name__}, which needs a network of "
            "its own shape; put them the other way round, or wrap the network in Python",
        )
