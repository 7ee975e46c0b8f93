"""A flow map from a trained network without a new module: its first blocks take the start, its last ones the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from beeline.core.declared import is_map, stacks_of
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.fields.flow import Network, Velocity


class DecoupledTimes(Network):
    """A network whose first blocks are modulated by the start of a jump, and whose last ones by its end.

    u(x, t, s) = out_s B_L(s) ... B_(k+1)(s) B_k(t) ... B_1(t) x;  u(x, t, t) is the network itself
    It has the parameters of the network and no others.
    Assumes a backbone that gives its stages, with one sequence of blocks, such as DiT and MLP.
    Source: Lee, Yu and Shin 2025, "Decoupled MeanFlow" (arXiv 2510.24474).

    >>> import torch
    >>> from beeline.networks.mlp import MLP
    >>> net = DecoupledTimes(MLP(2, width=8, depth=3), first=2)
    >>> net(torch.zeros(4, 2), torch.zeros(4), None, torch.ones(4)).shape
    torch.Size([4, 2])
    """

    is_flow_map = True

    def __init__(self, backbone: Any, path: Any = None, prediction: Any = None, first: int = 1):
        super().__init__(backbone, path, prediction)
        blocks = [block for stack in stacks_of(backbone).values() for block in stack]
        require(
            len(stacks_of(backbone)) == 1 and isinstance(self.prediction, Velocity) and not is_map(backbone),
            f"DecoupledTimes got a {type(backbone).__name__} with the prediction {type(self.prediction).__name__}; it "
            "divides one sequence of blocks of a network that predicts velocities: use a DiT or an MLP",
        )
        require(
            1 <= first < len(blocks),
            f"DecoupledTimes got first={first} and {len(blocks)} blocks; blocks after the first ones take the end of "
            f"the jump: give a number from 1 to {len(blocks) - 1}",
        )
        self.first = first

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"backbone": self.backbone, "path": self.path, "prediction": self.prediction, "first": self.first}

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None
    ) -> Tensor:
        backbone: Any = self.backbone
        inner = x.to(next(backbone.parameters()).dtype)
        start = backbone.stages(inner, t, cond)
        end = start if s is None else backbone.stages(inner, s, cond)
        require(
            start is not None,
            f"{type(backbone).__name__} gives no stages of its forward pass; use a DiT or an MLP, or MeanFlow",
        )
        told = [*start.told[: self.first], *end.told[self.first :]]
        h = start.h
        for block, modulation in zip(next(iter(stacks_of(backbone).values())), told, strict=False):
            h = block(h, *modulation)
        u: Tensor = start.out(h, *told[-1])
        return u.to(x.dtype)


def decoupled(network: Any, share: float = 2 / 3) -> DecoupledTimes:
    """A trained network as a flow map whose first ``share`` of blocks takes the start; with the weights of the network.

    Raises ValueError for a field that is no Network, and for a backbone without blocks or another prediction than the
    velocity.
    """
    require(
        isinstance(network, Network) and not is_map(network),
        f"decoupled got a {type(network).__name__}; it divides the blocks of a Network with one time: give the network "
        "of a flow, or use MeanFlow",
    )
    count = sum(len(stack) for stack in stacks_of(network).values())
    require(
        count >= 2,
        f"decoupled got a {type(network.backbone).__name__} of {count} blocks that can be divided; use a DiT or an MLP "
        "with two blocks or more, or MeanFlow",
    )
    first = min(max(1, round(share * count)), count - 1)
    return DecoupledTimes(network.backbone, network.path, network.prediction, first).train(network.training)
