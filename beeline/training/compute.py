"""Precision, activation checkpointing, compilation and memory layout of a training step."""

from __future__ import annotations

import contextlib
import contextvars
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
    """Precision and memory use of a step; the results differ by rounding at most.

    bf16: matrix products in bfloat16; weights, norms, time embeddings, averages and optimizer state in float32
    recompute: activation checkpointing, activations of the blocks of ``stacks`` are recomputed in the backward pass
    Assumes for recomputation that networks declare their blocks in ``stacks``.  float16 is not supported, because flow
    transformers overflow in it.
    Source: Micikevicius et al. 2018 (arXiv 1710.03740); Chen et al. 2016 (arXiv 1604.06174), activation checkpointing.

    >>> Compute(bf16=True).recompute
    0
    """

    bf16: bool = False  # autocast to bfloat16; about twice as fast on recent GPUs, slower on most CPUs
    recompute: int = 0  # 0 stores all activations, 1 recomputes every block, 2 every second one, ...
    compile: str | None = None  # backend of torch.compile, usually inductor; the first steps are slow
    channels_last: bool = False  # memory format for convolutions

    def __post_init__(self) -> None:
        require(
            isinstance(self.recompute, int) and self.recompute >= 0,
            f"compute.recompute is {self.recompute!r}; 0 stores all activations, 1 recomputes every block, 2 every "
            "second one: give a whole number of 0 or more",
        )
        known = () if self.compile is None else torch.compiler.list_backends(exclude_tags=())
        require(
            self.compile is None or self.compile in known,
            f"compute.compile is {self.compile!r}, which is not an available backend of torch.compile; "
            f"{nearest(str(self.compile), known)}",
        )

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of matrix products; None for that of the weights."""
        return torch.bfloat16 if self.bf16 else None

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Context manager: the precision of forward passes on a device."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)

    def place(self, networks: Mapping[str, nn.Module]) -> None:
        """Convert networks to the memory format; to be called before optimizers and averages are created."""
        if self.channels_last:
            for network in networks.values():
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def layout(self, x: Tensor) -> Tensor:
        """Data in the memory format of the networks."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x

    @contextlib.contextmanager
    def prepared(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        """Context manager: recomputation and compilation of the networks, undone on exit."""
        with contextlib.ExitStack() as undo:
            for name, network in networks.items():
                if self.recompute:
                    undo.enter_context(recomputed(network, self.recompute, name))
                # objectives call the parts of a container, never the container itself
                for part in parts_of(network) if self.compile else ():
                    part.compile(backend=self.compile)  # type: ignore[no-untyped-call]
                    undo.callback(setattr, part, "_compiled_call_impl", None)
            yield


@contextlib.contextmanager
def recomputed(network: nn.Module, every: int, name: str = "the network") -> Iterator[None]:
    """Context manager: activations of every ``every``-th block are recomputed in the backward pass."""
    blocks = [block for stack in stacks_of(network).values() for block in stack]
    require(
        blocks,
        f"compute.recompute is {every}, but {name} ({type(network).__name__}) declares no blocks in 'stacks', so there "
        "is nothing to recompute; set compute.recompute=0",
    )
    chosen = blocks[::every]
    try:
        for block in chosen:
            block.forward = _Recomputed(block.forward)  # type: ignore[method-assign]
        yield
    finally:
        for block in chosen:
            block.__dict__.pop("forward", None)


class _Recomputed:
    """A forward pass with activation checkpointing; a class, so that it can be copied with its network."""

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        require(
            torch._C._functorch.peek_interpreter_stack() is None and forward_ad._current_level < 0,
            "compute.recompute is set, but the objective uses forward-mode derivatives (jvp), which torch cannot "
            "recompute; set compute.recompute=0 and use more, smaller microbatches to save memory",
        )
        given = contextvars.copy_context()  # such as the time and the condition of an adapted network
        return checkpoint(given.run, self.forward, *args, use_reentrant=False, **kwargs)


@contextlib.contextmanager
def full(device: torch.device) -> Iterator[None]:
    """Context manager: no autocast, for computations that need full precision (forward-mode derivatives, norms)."""
    with torch.autocast(device.type, enabled=False):
        yield
