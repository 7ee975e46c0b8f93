"""How the same mathematics is computed: precision, memory for time, compilation, memory layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from beeline.core.declared import parts_of, stacks_of
from beeline.core.errors import nearest, require
from beeline.core.ranges import dataclass


@dataclass(frozen=True)
class Compute:
    """Precision and memory of a step; nothing of it changes what is learned, apart from rounding.

    bf16: matrix products in bfloat16, weights, norms, time embeddings, averages and the optimizer in float32
    recompute: activations inside the blocks of ``stacks`` are computed again in the backward pass, not kept
    Assumes that networks name their blocks in ``stacks`` for recomputing.  float16 is not offered: flow transformers
    overflow in it.
    Source: Micikevicius et al. 2018 (arXiv 1710.03740); Chen et al. 2016 (arXiv 1604.06174), recomputing.

    >>> Compute(bf16=True).recompute
    0
    """

    bf16: bool = False  # autocast to bfloat16; twice the speed on recent GPUs, slower on most CPUs
    recompute: int = 0  # 0 keeps all activations, 1 recomputes every block, 2 every second one, ...
    compile: str | None = None  # backend of torch.compile, usually inductor: slow first steps, faster after
    channels_last: bool = False  # memory layout that suits convolutions

    def __post_init__(self) -> None:
        require(
            isinstance(self.recompute, int) and self.recompute >= 0,
            f"compute.recompute is {self.recompute!r}; 0 keeps all activations, 1 recomputes every block, "
            "2 every second one: give a whole number from 0",
        )
        known = () if self.compile is None else torch.compiler.list_backends(exclude_tags=())
        require(
            self.compile is None or self.compile in known,
            f"compute.compile is {self.compile!r}, which is no backend of torch.compile here; "
            f"{nearest(str(self.compile), known)}",
        )

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """The precision of forward passes on a device."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def place(self, networks: Mapping[str, nn.Module]) -> None:
        """Networks in the layout asked for; before anything holds on to their weights."""
        if self.channels_last:
            for network in networks.values():
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def layout(self, x: Tensor) -> Tensor:
        """Data in the layout of the networks."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x

    @contextlib.contextmanager
    def prepared(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        """The networks changed for training as asked, and put back afterwards."""
        with contextlib.ExitStack() as undo:
            for name, network in networks.items():
                if self.recompute:
                    undo.enter_context(recomputed(network, self.recompute, name))
                # an objective calls the parts of a container one by one, never the container
                for part in parts_of(network) if self.compile else ():
                    part.compile(backend=self.compile)  # type: ignore[no-untyped-call]
                    undo.callback(setattr, part, "_compiled_call_impl", None)
            yield


@contextlib.contextmanager
def recomputed(network: nn.Module, every: int, name: str = "the network") -> Iterator[None]:
    """Activations of every ``every``-th block are computed again in the backward pass while this lasts."""
    blocks = [block for stack in stacks_of(network).values() for block in stack]
    require(
        blocks,
        f"compute.recompute was asked for, but {name} ({type(network).__name__}) names no blocks in 'stacks', so there "
        "is nothing to recompute; set compute.recompute=0",
    )
    chosen = blocks[::every]
    try:
        for block in chosen:
            block.forward = _again(block.forward)  # type: ignore[method-assign]
        yield
    finally:
        for block in chosen:
            block.__dict__.pop("forward", None)


class _again:  # noqa: N801 - a function that can be copied with its network
    """A forward pass that forgets its activations while a graph is built."""

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        require(
            torch._C._functorch.peek_interpreter_stack() is None and forward_ad._current_level < 0,
            "compute.recompute was asked for with an objective that differentiates forwards (jvp), which torch cannot "
            "recompute; set compute.recompute=0 and use more, smaller microbatches to save memory",
        )
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


@contextlib.contextmanager
def full(device: torch.device) -> Iterator[None]:
    """Full precision inside autocast, for what must not be rounded: forward-mode derivatives, norms."""
    with torch.autocast(device.type, enabled=False):
        yield
