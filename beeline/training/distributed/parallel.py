"""Parallel training: how the microbatches of a step are shared among processes.

Processes are started by ``torchrun``; ``init_process_group`` joins them.  Rank r of w works the microbatches r, r + w,
... of every step, so that the loss is the same on any number of processes, to rounding.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from beeline.core.declared import parts_of, stacks_of
from beeline.core.errors import require
from beeline.core.modes import AUTO, Device, place_for, resolve_device
from beeline.core.protocols.objectives import Player
from beeline.core.protocols.training import Parallel
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss

Work = Callable[[Batch, Rng, float, bool], Loss]
"""Forward and backward pass of a microbatch: (batch, key, share of the gradient, whether it is this process's last)."""


@dataclass(frozen=True)
class SingleDevice:
    """One process works all microbatches.

    gradient = sum over the microbatches
    Assumes nothing.
    Source: none.

    >>> SingleDevice().world
    1
    """

    rank = 0
    world = 1
    shards = False

    def place(self, device: Device | None, networks: Mapping[str, nn.Module]) -> torch.device:
        return place_for(device, networks)

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        return network.to(device)

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        def work(batch: Batch, key: Rng, share: float, last: bool) -> Loss:
            loss = player.loss(batch, key)
            (loss.value * share).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over processes."""
        return value

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all tensors together, in float32 or better."""
        return local_norm(tensors)


class Together:
    """One of the processes that torch.distributed started."""

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def place(self, device: Device | None, networks: Mapping[str, nn.Module]) -> torch.device:
        """The device of this process: ``cuda`` is the GPU of its rank."""
        return here() if device in (None, AUTO, "cuda") else resolve_device(device)


@dataclass(frozen=True)
class DDP(Together):
    """A whole copy of the networks in every process; gradients are averaged while they are computed (DDP).

    gradient = mean over processes of the sum over their microbatches, scaled back to the sum over all microbatches
    Assumes that the networks fit on one device.  The objective itself is the forward pass that DDP sees, so that
    forward-mode derivatives, several passes and unused parameters are safe.
    Source: Li et al. 2020, "PyTorch Distributed" (arXiv 2006.15704).

    >>> DDP().shards
    False
    """

    shards = False

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        is_initialized()
        return network.to(device)

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            shared = nn.parallel.DistributedDataParallel(
                _Objective(player), broadcast_buffers=False, find_unused_parameters=True
            )

        def work(batch: Batch, key: Rng, share: float, last: bool) -> Loss:
            with contextlib.nullcontext() if last else shared.no_sync():
                loss: Loss = shared(batch, key)
                (loss.value * (share * self.world)).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        return summed(value)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        return local_norm(tensors)


@dataclass(frozen=True)
class FSDP(Together):
    """Parameters, gradients, averages and optimizer memory divided among processes, block by block (FSDP2).

    every block of ``stacks`` is gathered when it is needed and divided again afterwards
    Assumes that the networks, or the parts of those that hold others, are called as modules, not by their inner layers.
    Networks without ``stacks`` are gathered as a whole.
    Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277); Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054).

    >>> FSDP().shards
    True
    """

    offload: bool = False  # keep parameters and optimizer memory on the CPU between uses; slower, for CUDA alone
    shards = True

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        is_initialized()
        if next(network.parameters(), None) is None:  # nothing to divide
            return network.to(device)
        mesh = dist.init_device_mesh(device.type, (self.world,))
        policy = CPUOffloadPolicy() if self.offload and device.type == "cuda" else OffloadPolicy()
        if not self.offload:
            network = network.to(device)
        for part in parts_of(network):
            for blocks in stacks_of(part).values():
                for block in blocks:
                    fully_shard(block, mesh=mesh, offload_policy=policy)
            fully_shard(part, mesh=mesh, offload_policy=policy)
        return network

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        def work(batch: Batch, key: Rng, share: float, last: bool) -> Loss:
            for network in networks.values():
                for part in parts_of(network):
                    sync: Any = getattr(part, "set_requires_gradient_sync", None)
                    if sync is not None:
                        sync(last)
            loss = player.loss(batch, key)
            (loss.value * (share * self.world)).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        return summed(value)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        return summed(local_norm(tensors).to(here()).square()).sqrt()


class _Objective(nn.Module):
    """A player as a module: its loss is the forward pass, its parameters are those it moves."""

    def __init__(self, player: Player):
        super().__init__()
        self.moved = nn.ParameterList(player.parameters)
        self._loss = player.loss

    def forward(self, batch: Batch, key: Rng) -> Loss:
        return self._loss(batch, key)


def init_process_group(timeout: float = 600.0) -> None:
    """Meet the other processes that ``torchrun`` started; ``timeout`` in seconds is how long one may be silent."""
    if dist.is_initialized():
        return
    require(
        "RANK" in os.environ and "WORLD_SIZE" in os.environ,
        "several processes were asked for, but this one was started alone; start them with "
        "torchrun --nproc-per-node=2 -m beeline train ... --parallel ddp",
    )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        value = os.environ.get(name, "0")
        require(
            value.isascii() and value.isdigit(),
            f"the environment has {name}={value!r}; it is set by torchrun and is a whole number from 0: start the "
            "processes with torchrun, or remove the variable",
        )
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    require(
        rank < world,
        f"the environment has RANK={rank} and WORLD_SIZE={world}; ranks are counted from 0 to the world size less 1: "
        "start the processes with torchrun",
    )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # gloo beside NCCL, for the tensors that stay on the CPU
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout))


def first(engine: Parallel, act: Callable[[], None]) -> None:
    """Let the first process act; what it refuses ends all processes."""
    error: Exception | None = None
    if engine.rank == 0:
        try:
            act()
        except Exception as caught:
            error = caught
    failed = engine.world > 1 and float(engine.total(torch.tensor(float(error is not None), device=here()))) > 0
    if error is not None:
        raise error
    require(
        not failed, "the first process refused to go on, so this one cannot; its own message says why and what to do"
    )


def destroy_process_group() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_initialized() -> None:
    """Refuse an engine of several processes before they have met."""
    require(
        dist.is_initialized(),
        "this engine needs its processes to have met; call beeline.training.distributed.parallel.init_process_group() "
        "first, in a program started by torchrun, or use SingleDevice()",
    )


def here() -> torch.device:
    """The device of this process."""
    cuda = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")


def summed(value: Tensor) -> Tensor:
    """The sum of a value over processes, as a new tensor."""
    value = value.clone()
    dist.all_reduce(value)
    return value


def extent(value: Tensor) -> tuple[float, float]:
    """The least and the greatest of one number over processes; equal when they agree to the last bit."""
    both = torch.stack([value, -value]).double()
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return -float(both[1]), float(both[0])


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; the tensor itself where it is whole."""
    held: Any = tensor
    return held.to_local() if hasattr(held, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is divided among processes (all of them have to ask)."""
    held: Any = tensor
    return held.full_tensor() if hasattr(held, "full_tensor") else tensor


def local_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of the parts held here together, two kernels for all of them."""
    held = [t for t in map(local, tensors) if t.numel()]
    if not held:
        return torch.zeros((), device=here())
    norms = [n.to(torch.promote_types(n.dtype, torch.float32)) for n in torch._foreach_norm(held)]
    return torch.linalg.vector_norm(torch.stack(norms))
