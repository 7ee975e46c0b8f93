"""Small trained parts beside a frozen network, which replace the second pass of guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beeline.core.declared import Describing, Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Network, bind
from beeline.networks.guided.scaled import BETA
from beeline.networks.hooks import block_hooks, named_blocks


class Beta(Wrapping):
    """Base of a frozen network with a trained part for the guidance scale, whose effect is 1 - beta = 1 - 1/scale.

    At beta = 1 the output is that of the network, bit by bit.  A condition without beta is taken as beta = 1.
    """

    def __init__(self, field: nn.Module):
        super().__init__()
        self.field = field
        for p in field.parameters():
            p.requires_grad_(False)

    def split(self, x: Tensor, cond: Cond) -> tuple[Cond, Tensor]:
        """The conditions of the network inside, and beta [B]."""
        given: dict[str, Any] = dict(cond) if isinstance(cond, Mapping) else {}
        if "beta" not in given:
            return cond, x.new_ones(len(x))
        beta = given.pop("beta")[:, 0].to(x.dtype)
        return given or None, beta


class BlockAdapters(Beta):
    """A frozen network with a small adapter behind every repeated block, told the time and the guidance scale.

    h_k <- B_k(h_{k-1}) + (1 - beta) U_k silu(D_k h + E_k (t, beta)),  beta = 1 / scale,  U_k = 0 at first
    Assumes a network that declares its blocks, with features [B,C], [B,N,C] or [B,C,H,W].
    Source: Jensen and Sadat 2025, "Efficient Distillation of Classifier-Free Guidance using Adapters" (arXiv
    2503.07274), in the size of its adapters.

    >>> from beeline.networks.mlp import MLP
    >>> net = BlockAdapters(Network(MLP(2, width=16)), [16, 16, 16], width=4)
    >>> net(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(self, field: nn.Module, channels: list[int], width: int = 8):
        super().__init__(field)
        require(
            len(channels) == len(named_blocks(field)) >= 1,
            f"BlockAdapters got channels={channels} and a network of {len(named_blocks(field))} blocks; every block "
            "has one number of output channels: give one for each",
        )
        self.channels, self.width = list(channels), width
        self.down = nn.ModuleList(nn.Linear(n, width) for n in channels)
        self.told = nn.ModuleList(nn.Linear(6, width) for _ in channels)
        self.up = nn.ModuleList(nn.Linear(width, n) for n in channels)
        for up in self.up:
            nn.init.zeros_(up.weight)  # type: ignore[arg-type]
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]
        weight = next(field.parameters(), None)
        for parts in (self.down, self.told, self.up):
            parts.to(None if weight is None else weight.device)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "channels": self.channels, "width": self.width}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        inner, beta = self.split(x, cond)
        parts = zip(named_blocks(self.field), self.down, self.told, self.up, strict=True)
        with block_hooks(self.field, {name: _adapter(down, told, up, t, beta) for name, down, told, up in parts}):
            out: Tensor = self.field(x, t) if inner is None else self.field(x, t, inner)
        return out


def _adapter(down: nn.Module, told: nn.Module, up: nn.Module, t: Tensor, beta: Tensor) -> Any:
    """The function of the output of a block that adds its adapter."""
    when = torch.stack([beta, t, (torch.pi * t).sin(), (torch.pi * t).cos(), beta * t, beta.square()], 1)

    def act(h: Tensor) -> Tensor:
        last = h.movedim(1, -1) if h.ndim > 3 else h
        weight = next(down.parameters())
        e = told(when.to(weight.dtype))
        u: Tensor = up(F.silu(down(last.to(weight.dtype)) + e.reshape(len(e), *[1] * (last.ndim - 2), -1)))
        u = u.movedim(-1, 1) if h.ndim > 3 else u
        gain = expand_time(1 - beta, h).to(h.dtype)
        return torch.where(gain == 0, h, h + gain * u.to(h.dtype))

    return act


class SideNetwork(Beta):
    """A frozen network with a smaller one beside it, which adds the change by guidance.

    v(x, t, c, beta) = field(x, t, c) + (1 - beta) side(x, t, c, beta),  beta = 1 / scale
    The side network knows nothing of the weights of the other, so it can stand beside finetuned copies of it.
    Assumes a side network that takes the condition beta; it adds velocities, where the paper adds features.
    Source: Hsiao et al. 2024, "Plug-and-Play Diffusion Distillation" (arXiv 2406.01954).

    >>> from beeline.networks.mlp import MLP
    >>> side = Network(MLP(2, width=8, depth=1, conditions={"beta": {"size": 1}}))
    >>> SideNetwork(Network(MLP(2)), side)(torch.zeros(4, 2), torch.zeros(4)).shape
    torch.Size([4, 2])
    """

    def __init__(self, field: nn.Module, side: nn.Module):
        super().__init__(field)
        self.side = side

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, "side": self.side}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        inner, beta = self.split(x, cond)
        out = bind(self.field, inner)(x, t)
        told = {**(inner if isinstance(inner, Mapping) else {}), "beta": beta[:, None]}
        gain = expand_time(1 - beta, x)
        return torch.where(gain == 0, out, out + gain * bind(self.side, told)(x, t))


def side_network(network: Any, width: int) -> Network:
    """A smaller network of the class of a trained one, with the condition ``beta``; its output is zero at first."""
    backbone = network.backbone if isinstance(network, Network) else None
    settings: dict[str, Any] = dict(backbone.describe()) if isinstance(backbone, Describing) else {}
    require(
        {"width", "conditions"} <= set(settings),
        f"a side network was to be made like a {type(backbone).__name__}, which has no settings width and conditions; "
        "use a network such as MLP, UNet or DiT",
    )
    given = {**settings, "width": width, "conditions": {**(settings["conditions"] or {}), **BETA}}
    assert isinstance(backbone, nn.Module)
    weight = next(backbone.parameters())
    return Network(type(backbone)(**given).to(weight.device, weight.dtype), network.path)
