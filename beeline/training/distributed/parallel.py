"""Parallel training: how the microbatches of a step are distributed over processes.

Processes are started by ``torchrun`` and joined by ``init_process_group``.  Rank r of w computes the microbatches r,
r + w, ... of every step, so the loss is the same on any number of processes, up to rounding.
"""

from __future__ import annotations

import contextlib
import os
import sys
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
"""Forward and backward pass of a microbatch: (batch, key, weight of its gradient, whether it is the last one)."""


@dataclass(frozen=True)
class SingleDevice:
    """One process computes all microbatches.

    gradient = sum over the microbatches

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
        def work(batch: Batch, key: Rng, weight: float, last: bool) -> Loss:
            loss = player.loss(batch, key)
            (loss.value * weight).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over processes."""
        return value

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of all tensors together, in float32 or better."""
        return local_norm(tensors)


class DistributedBase:
    """Base of the engines on torch.distributed: rank, world size and device of this process."""

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def place(self, device: Device | None, networks: Mapping[str, nn.Module]) -> torch.device:
        """The device of this process; "cuda" is the GPU of its local rank."""
        return local_device() if device in (None, AUTO, "cuda") else resolve_device(device)


@dataclass(frozen=True)
class DDP(DistributedBase):
    """Distributed data parallel: a replica of the networks in every process, gradients averaged during backward.

    gradient = mean over processes of the sum over their microbatches, rescaled to the sum over all microbatches
    Assumes that the networks fit on one device.  DDP wraps the objective as its forward pass, so forward-mode
    derivatives, several passes and unused parameters are supported.
    Source: Li et al. 2020, "PyTorch Distributed" (arXiv 2006.15704).

    >>> DDP().shards
    False
    """

    shards = False

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        check_initialized()
        return network.to(device)

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = nn.parallel.DistributedDataParallel(
                _Objective(player), broadcast_buffers=False, find_unused_parameters=True
            )

        def work(batch: Batch, key: Rng, weight: float, last: bool) -> Loss:
            with contextlib.nullcontext() if last else wrapped.no_sync():
                loss: Loss = wrapped(batch, key)
                (loss.value * (weight * self.world)).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        return all_reduce_sum(value)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        return local_norm(tensors)


@dataclass(frozen=True)
class FSDP(DistributedBase):
    """Fully sharded data parallel (FSDP2): parameters, gradients, averages and optimizer state are sharded by block.

    every block of ``stacks`` is all-gathered before use and resharded afterwards
    Assumes that networks, or the parts of container networks, are called as modules, not through their inner layers.
    Networks without ``stacks`` are gathered as one unit.
    Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277); Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054).

    >>> FSDP().shards
    True
    """

    offload: bool = False  # parameters and optimizer state on the CPU between uses; slower, CUDA only
    shards = True

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        check_initialized()
        if next(network.parameters(), None) is None:  # nothing to shard
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
        from torch.distributed.fsdp import FSDPModule

        def work(batch: Batch, key: Rng, weight: float, last: bool) -> Loss:
            for network in networks.values():
                for part in parts_of(network):
                    if isinstance(part, FSDPModule):
                        part.set_requires_gradient_sync(last)
            loss = player.loss(batch, key)
            (loss.value * (weight * self.world)).backward()  # type: ignore[no-untyped-call]
            return loss

        return work

    def total(self, value: Tensor) -> Tensor:
        return all_reduce_sum(value)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        return all_reduce_sum(local_norm(tensors).to(local_device()).square()).sqrt()


class _Objective(nn.Module):
    """A player as a module: its loss is the forward pass, its parameters are those that the player updates."""

    def __init__(self, player: Player):
        super().__init__()
        self.updated = nn.ParameterList(player.parameters)
        self._loss = player.loss

    def forward(self, batch: Batch, key: Rng) -> Loss:
        return self._loss(batch, key)


def init_process_group(timeout: float = 600.0) -> None:
    """Join the processes that ``torchrun`` started; ``timeout`` is that of collective operations, in seconds."""
    if dist.is_initialized():
        return
    require(
        "RANK" in os.environ and "WORLD_SIZE" in os.environ,
        "parallel training needs several processes, but RANK and WORLD_SIZE are not set, so this process was started "
        "alone; run torchrun --nproc-per-node=2 -m beeline train ... --parallel ddp",
    )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        value = os.environ.get(name, "0")
        require(
            value.isascii() and value.isdigit(),
            f"the environment has {name}={value!r}, which is not a whole number of 0 or more, as torchrun sets it: "
            "start the processes with torchrun, or unset the variable",
        )
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    require(
        rank < world,
        f"the environment has RANK={rank} and WORLD_SIZE={world}, but ranks range from 0 to {world - 1}: start the "
        "processes with torchrun",
    )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # gloo in addition to NCCL, for CPU tensors
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout))


def on_rank_zero(engine: Parallel, act: Callable[[], None]) -> None:
    """Call ``act`` on rank 0; if it raises, all processes raise."""
    error: Exception | None = None
    if engine.rank == 0:
        try:
            act()
        except Exception as caught:
            error = caught
    failed = engine.world > 1 and float(engine.total(torch.tensor(float(error is not None), device=local_device()))) > 0
    if error is not None:
        raise error
    require(not failed, "rank 0 raised an error, so this process stops too; see the message of rank 0 for what to do")


def destroy_process_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_initialized() -> None:
    """Refuse DDP and FSDP before the process group is initialised."""
    require(
        dist.is_initialized(),
        "DDP and FSDP need an initialised process group, but there is none; call "
        "beeline.training.distributed.parallel.init_process_group() first, in a program started by torchrun, or use "
        "SingleDevice()",
    )


def local_device() -> torch.device:
    """The device of this process: the GPU of its local rank, or the CPU."""
    cuda = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over processes, as a new tensor."""
    value = value.clone()
    dist.all_reduce(value)
    return value


def all_reduce_min_max(value: Tensor) -> tuple[float, float]:
    """Minimum and maximum of a scalar over processes."""
    both = torch.stack([value, -value]).double()
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return -float(both[1]), float(both[0])


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, which is distributed over processes."""
    if "torch.distributed.tensor" not in sys.modules:  # its import takes half a second, and no DTensor exists before
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Any) -> Tensor:
    """The shard of a DTensor that this process holds; any other tensor unchanged."""
    shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return shard


def full_tensor(tensor: Any) -> Tensor:
    """All shards of a DTensor, gathered (a collective operation); any other tensor unchanged."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def local_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of the local shards together, by two kernels for all of them."""
    shards = [t for t in map(local, tensors) if t.numel()]
    if not shards:
        return torch.zeros((), device=local_device())
    norms = [n.to(torch.promote_types(n.dtype, torch.float32)) for n in torch._foreach_norm(shards)]
    return torch.linalg.vector_norm(torch.stack(norms))
