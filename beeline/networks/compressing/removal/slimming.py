"""Networks that lose heads and hidden channels while they are trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.progress import progress
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.inside import Reparametrized
from beeline.networks.adapters.recast import recast, replaced, without
from beeline.networks.compressing.prune import in_order
from beeline.networks.compressing.removal.units import Units, together, units_of
from beeline.networks.transformer.plans.elastic import SubNetwork, transformer_in
from beeline.networks.transformer.plans.subset import share_of

OLD = 0.95  # weight of what was felt before, in a step
BUFFERS = ("gate", "period", "felt")


class Fading(nn.Module):
    """A layer whose inputs are multiplied by the gates of their units."""

    gate: Tensor  # [count], 0 to 1
    period: Tensor  # [count] in which a unit began to fade; -1 for those that stay
    felt: Tensor  # [count] running sum over rows of (d loss / d gate)^2

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.gate.repeat_interleave(x.shape[-1] // len(self.gate)).to(x.dtype)
        if self.training and y.requires_grad:
            seen = x.detach()
            y.register_hook(lambda g: self.feel(g * seen))  # type: ignore[no-untyped-call]
        out: Tensor = super().forward(y)
        return out

    @torch.no_grad()
    def feel(self, products: Tensor) -> None:
        """Add the gradients of the gates, which are sums of ``products`` [B,...,in]."""
        rows = products.float().flatten(1, -2).sum(1) if products.ndim > 2 else products.float()
        self.felt += rows.reshape(len(rows), len(self.gate), -1).sum(2).square().sum(0).to(self.felt)


class Slimmed(Reparametrized):
    """A network whose least important heads and hidden channels fade to nothing while it is trained.

    W_last[:, j] <- gate_j W_last[:, j] for the inputs j of a unit;  in each of ``periods`` some units more fade,
    gate = (T - t) / T after t of the T steps of a period, those with the lowest mean of |W_:j| and
    E (d loss / d gate_j)^2, each as a share of its sum over the layer
    In every layer all but ``share`` have faded after the share ``end`` of the training.  ``slim`` takes them away, and
    the output stays.  Around ``Adapted`` the numbers of the delta are trained, and fade with their unit.  For weights
    that are not sharded.
    Source: Chen et al. 2024, HESSO (arXiv 2409.09085), with two of its criteria and without its cycle that puts units
    back.

    >>> from beeline.networks.dit import DiT
    >>> net = Slimmed(DiT((1, 8, 8), width=16, depth=2, heads=2))
    >>> net.slim()(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, field: nn.Module, share: float = 0.5, periods: int = 3, start: float = 0.05, end: float = 0.5):
        super().__init__()
        require(
            0 < share < 1 and periods >= 1 and 0 <= start < end <= 1,
            f"Slimmed got share={share}, periods={periods}, start={start} and end={end}; the share of units that stay "
            "is between 0 and 1, and units fade from a share of the training to a later one: set 0 <= start < end <= 1",
        )
        self.settings: dict[str, Any] = {"share": share, "periods": periods, "start": start, "end": end}
        self.field, self.chosen = field, 0
        for name, unit in units_of(field, "Slimmed").items():
            layer, like = recast(unit.last, Fading), unit.last.weight
            layer.register_buffer("gate", like.new_ones(unit.count))
            layer.register_buffer("period", like.new_full((unit.count,), -1, dtype=torch.long))
            layer.register_buffer("felt", like.new_zeros(unit.count))
            replaced(transformer_in(field, "Slimmed"), name, layer)

    def describe(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"field": self.field, **self.settings}

    @torch.no_grad()
    def settle(self, total: Callable[[Tensor], Tensor]) -> None:
        periods, start, end = (self.settings[name] for name in ("periods", "start", "end"))
        passed = round(periods * (progress() - start) / (end - start), 6)
        begun = min(periods, max(0, math.floor(passed) + 1)) if passed >= 0 else 0
        units: dict[str, Any] = units_of(self.field, "Slimmed")
        for unit in units.values():
            unit.last.felt.mul_(OLD)
        worth: dict[str, Tensor] = {}
        if begun > self.chosen:
            felt = {name: importance(unit, total(unit.last.felt.clone())) for name, unit in units.items()}
            worth = together(units, felt)
        for name, unit in units.items():
            layer = unit.last
            if worth:
                wanted = (unit.count - share_of(unit.count, self.settings["share"])) * begun // periods
                staying = layer.period < 0
                more = wanted - int((~staying).sum())
                order = worth[name].masked_fill(~staying, math.inf).argsort(stable=True)
                layer.period[order[: max(0, more)]] = begun - 1
            fading = (1 - passed + layer.period).clamp(0, 1).to(layer.gate)
            layer.gate.copy_(torch.where(layer.period < 0, 1, fading))
        self.chosen = begun

    @torch.no_grad()
    def slim(self) -> nn.Module:
        """The network with the share of units that stays, with adapters merged; it is not changed itself.

        Where units still fade, those with the smallest gates go, and of equal ones the least important.
        """
        made = copy.deepcopy(self.field)
        gates: dict[str, Tensor] = {}
        worth: dict[str, Tensor] = {}
        inner = transformer_in(made, "Slimmed")
        for name, unit in units_of(made, "Slimmed").items():
            layer: Any = unit.last
            gates[name], worth[name] = layer.gate, layer.gate.float() + 1e-3 * importance(unit, layer.felt)
            plain = without(layer, Fading)
            plain._buffers = {k: v for k, v in plain._buffers.items() if k not in BUFFERS}
            replaced(inner, name, plain)
        net = made.merged() if isinstance(made, Adapted) else made
        units = units_of(net, "Slimmed")
        order = together(units, worth)
        for name, unit in units.items():
            unit.last.weight.mul_(gates[name].repeat_interleave(unit.size).to(unit.last.weight))
            in_order(unit, order[name])
        return SubNetwork(net, self.settings["share"], own=True)


def importance(unit: Units, felt: Tensor) -> Tensor:
    """The mean [count] of two shares of the units of a layer: of the sizes of their columns, and of what was felt."""
    sizes = unit.by_unit(unit.last.weight.detach().float().square().sum(0)).sqrt()
    shares = [part / part.sum().clamp(min=1e-30) for part in (sizes, felt.float().to(sizes))]
    return torch.stack(shares).mean(0)
