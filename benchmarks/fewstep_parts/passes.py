"""Counts the passes of networks: the work of a step in units of one evaluation of the teacher for one datum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from beeline.core.errors import require
from beeline.core.modes import device_of, eval_mode
from beeline.core.types import Cond, map_cond
from beeline.fields.flow import Flow, evaluate_field


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_aten = torch.ops.aten
ATTENTION = {  # of the CPU, which torch does not count
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
FORMULAS: dict[Any, Any] = {**flop_registry, **ATTENTION}


class Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention, also those of derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.count += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


class Passes:
    """Counts the passes of all networks within a block of code.

    passes = operations / operations of one evaluation of the teacher for one datum
    For every datum a forward pass of a network as large as the teacher counts one, its backward pass two (one where its
    weights are frozen), and a forward-mode derivative two more: torch also multiplies by the zero tangent of weights.

    >>> from beeline.fields.flow import Network
    >>> from beeline.networks.mlp import MLP
    >>> net, x, t = Network(MLP(2)), torch.zeros(8, 2), torch.zeros(8)
    >>> with Passes(Flow(net), x[:1]) as counted:
    ...     found = net(x, t)
    >>> round(counted.count, 3)
    8.0
    """

    def __init__(self, teacher: Flow, datum: Tensor, cond: Cond = None):
        datum = datum.to(device_of(teacher) or datum.device)
        cond = map_cond(lambda leaf: leaf.to(datum.device), cond)
        with Operations() as one, eval_mode(teacher.field):
            evaluate_field(teacher.field, datum, torch.full((1,), 0.5, device=datum.device), cond)
        self.unit, self.count = one.count, 0.0
        require(
            self.unit > 0,
            "passes of the networks were asked for, but the teacher has no matrix product or convolution to count: "
            "give a teacher with a network",
        )

    def __enter__(self) -> Passes:
        self._counter = Operations()
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        self.count += self._counter.count / self.unit
