"""Networks that compute as the one inside them, whose weights are changed or stored otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from beeline.core.declared import Declaring, Stages, Wrapping, unwrapped
from beeline.core.types import Cond
from beeline.fields.flow import Network


class Reparametrized(Wrapping):
    """Base of networks with the blocks, the inputs and the output of the one inside."""

    field: nn.Module

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        out: Tensor = self.field(x, t, cond) if s is None else self.field(x, t, cond, s)
        return out

    def stages(self, x: Tensor, t: Tensor, cond: Any = None) -> Stages | None:
        return self.field.stages(x, t, cond) if isinstance(self.field, Declaring) else None

    def modulation(self, t: Any, cond: Any = None) -> Any:
        return self.field.modulation(t, cond) if isinstance(self.field, Declaring) else None


def with_backbone(field: Any, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of a field with ``change(backbone)`` in a ``Network``, or ``change`` of the copy where it is none."""
    made: nn.Module = copy.deepcopy(unwrapped(field)).requires_grad_(False)
    if not isinstance(made, Network):
        return change(made)
    made.backbone = change(made.backbone)
    return made


def backbone_of(field: Any) -> nn.Module:
    """The backbone of a ``Network``, or the field itself."""
    inner: nn.Module = unwrapped(field)
    return inner.backbone if isinstance(inner, Network) else inner
