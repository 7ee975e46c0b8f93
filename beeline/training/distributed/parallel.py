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

    def wrap(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
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
    derivatives, several passes and unused parameters are supported.  Unused parameters are searched for in every step
    unless the objective declares a static graph and the first step uses all of them.
    Source: Li et al. 2020, "PyTorch Distributed" (arXiv 2006.15704).

    >>> DDP().shards
    False
    """

    search: bool = False  # search for unused parameters in every step: for networks that skip some in some steps
    shards = False

    def wrap(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        check_initialized()
        return network.to(device)

    def work(self, player: Player, networks: Mapping[str, nn.Module]) -> Work:
        if self.search or not player.static_graph:
            return self._wrapped(player, search=True)
        later: list[Work] = []

        def work(batch: Batch, key: Rng, weight: float, last: bool) -> Loss:
            if later:
                return later[0](batch, key, weight, last)
            loss = player.loss(batch, key)  # the first step shows which parameters are used
            (loss.value * weight).backward()  # type: ignore[no-untyped-call]
            if last:
                later.append(self._wrapped(player, search=not sum_gradients(player.parameters)))
            return loss

        return work

    def _wrapped(self, player: Player, search: bool) -> Work:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = nn.parallel.DistributedDataParallel(
                _Objective(player), broadcast_buffers=False, find_unused_parameters=search
            )

        def work(batch: Batch, key: Rng, weight: float, last: bool) -> Loss:
            with contextlib.nullcontext() if last else wrapped.no_sync():
                try:
                    loss: Loss = wrapped(batch, key)
                except RuntimeError as error:
                    require(
                        "finished reduction in the prior iteration" not in str(error),
                        "a step did not use all parameters that the first step used, so their gradients were not "
                        "summed over processes; train with --parallel 'DDP(search=True)'",
                    )
                    raise
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

    every block of ``stacks`` is all-gathered before use and resharded afterwards;  with ``compute.bf16`` blocks are
    gathered in bfloat16 and gradients summed in float32
    Assumes that networks, or the parts of container networks, are called as modules, not through their inner layers.
    Networks without ``stacks`` are gathered as one unit.  A network of rank 0 may be on the meta device in the other
    processes, which then receive their shards of its values.
    Source: Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277); Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054).

    >>> FSDP().shards
    True
    """

    offload: bool = False  # parameters and optimizer state on the CPU between uses; slower, CUDA only
    shards = True

    def wrap(self, network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        check_initialized()
        if next(network.parameters(), None) is None:  # nothing to shard
            return network.to(device)
        mesh = dist.init_device_mesh(device.type, (self.world,))
        policy = CPUOffloadPolicy() if self.offload and device.type == "cuda" else OffloadPolicy()
        whole = _from_rank_zero(network, device)
        if not self.offload and whole is None:
            network = network.to(device)
        # inputs are not cast: times need float32; the rest of the network, such as time embeddings, stays in float32
        narrow = MixedPrecisionPolicy(dtype, torch.float32 if dtype else None, cast_forward_inputs=False)
        for part in parts_of(network):
            for blocks in stacks_of(part).values():
                for block in blocks:
                    fully_shard(block, mesh=mesh, offload_policy=policy, mp_policy=narrow)
            fully_shard(part, mesh=mesh, offload_policy=policy)
        if whole is not None:
            whole(network)
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


def _from_rank_zero(network: nn.Module, device: torch.device) -> Callable[[nn.Module], None] | None:
    """A function that fills the sharded network with the values of rank 0; None if no process has it on "meta"."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    if float(all_reduce_sum(torch.tensor(float(any(t.is_meta for t in tensors.values())), device=local_device()))) == 0:
        return None
    state = network.state_dict() if dist.get_rank() == 0 else {}
    buffers = {k: b if dist.get_rank() == 0 else torch.empty_like(b, device="cpu") for k, b in network.named_buffers()}
    network.to("meta")

    def fill(sharded: nn.Module) -> None:
        sharded.to_empty(device=device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(sharded, state, options=options)
        for name, buffer in sharded.named_buffers():
            value = buffers[name].detach().to(device)
            dist.broadcast(value, 0)
            buffer.copy_(value)

    return fill


def sum_gradients(parameters: Sequence[nn.Parameter]) -> bool:
    """Sum the gradients over processes, in place; whether every process has used every parameter."""
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=local_device())
    counts = all_reduce_sum(used).tolist()
    for p, count in zip(parameters, counts, strict=True):
        if count:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
    return bool(min(counts) == dist.get_world_size())


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
