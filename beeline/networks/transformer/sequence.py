"""A flow transformer whose tokens are divided among processes (context or sequence parallelism)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from beeline.core.declared import Stages, Wrapping
from beeline.core.errors import require
from beeline.core.types import Cond
from beeline.networks.transformer.backbone import FlowTransformer
from beeline.networks.transformer.layout import asked
from beeline.networks.transformer.mixers import Attention, LinearAttention

BY_QUERY = (Attention, LinearAttention)
"""Mixers whose output for a token needs the queries of no other."""


class Gather(torch.autograd.Function):
    """The parts of all processes along an axis; the gradient of a part is the sum of those of all processes."""

    @staticmethod
    def forward(part: Tensor, axis: int, group: Any) -> Tensor:
        return torch.cat(_all(part, group), axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.axis, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(dist.get_world_size(ctx.group), ctx.axis)[dist.get_rank(ctx.group)], None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return torch.cat(_all(tangents[0], ctx.group), ctx.axis)


def _all(part: Tensor, group: Any) -> list[Tensor]:
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, part, group)
    return parts


class SequenceParallel(Wrapping):
    """The network with an equal share of the tokens of a datum in every process; all return the whole output.

    o_i of the tokens of a process = mix(q_i, keys and values of all processes);  other tokens are in all of them
    Gradients of weights are those of the network in the mean over processes, as DDP takes it.  Memory of activations
    falls with the number of processes, but for keys and values of one block.
    Assumes the same data in all processes, mixers Attention or LinearAttention, and tokens that are a multiple of the
    processes of ``group``.
    Source: Korthikanti et al. 2022 (arXiv 2205.05198); gathered keys and values: Llama team 2024 (arXiv 2407.21783).
    """

    inside = "network"
    is_flow_map = False

    def __init__(self, network: FlowTransformer, group: dist.ProcessGroup | None = None):
        super().__init__()
        require(
            dist.is_initialized(),
            "SequenceParallel needs an initialised process group; the tokens are divided among its processes: start "
            "with torchrun and call init_process_group first",
        )
        mixer = network.settings["mixer"]
        require(
            isinstance(mixer, BY_QUERY),
            f"SequenceParallel got a network with mixer={type(mixer).__name__}; a process has the queries of its own "
            f"tokens alone: use {' or '.join(kind.__name__ for kind in BY_QUERY)}",
        )
        self.network, self.group = network, group

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        what, world = asked(), dist.get_world_size(self.group)
        h, told, out = self.network.begun(x, t, cond, s, what)
        n = told[-1][1].tokens
        require(
            n % world == 0,
            f"the datum has {n} tokens for {world} processes; every process has as many: use {n // world * world} or "
            f"{(n // world + 1) * world} tokens, or another number of processes",
        )
        share = n // world
        mine = torch.arange(share, device=h.device) + share * dist.get_rank(self.group)

        def every(part: Tensor, axis: int) -> Tensor:
            whole: Tensor = Gather.apply(part, axis, self.group)  # type: ignore[no-untyped-call]
            return whole

        def whole(h: Tensor, *last: Any) -> Tensor:
            output: Tensor = out(torch.cat([every(h[:, :share], 1), h[:, share:]], 1), *last)
            return output

        own = [(e, layout.of_tokens(mine)._replace(gather=partial(every, axis=2))) for e, layout in told[:-1]]
        return self.network.run(Stages(torch.cat([h[:, mine], h[:, n:]], 1), [*own, told[-1]], whole), what)
