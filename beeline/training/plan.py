"""Plans: what a training will take in memory, disk and time, before it starts."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from beeline.core.modes import device_of, moved
from beeline.core.protocols.objectives import spec_of
from beeline.core.rng import Rng
from beeline.core.types import to
from beeline.training.distributed.parallel import SingleDevice
from beeline.training.feed.microbatches import as_microbatches
from beeline.training.loop import Loop
from beeline.training.memory import Tracker, size
from beeline.training.optim.optimizers import in_use
from beeline.training.players import players

if TYPE_CHECKING:
    from beeline.core.protocols.training import Optimizer
    from beeline.training.config import Training


TRIAL = 10  # steps
PROBE = 64  # data in the larger of two microbatches from which the memory of a still larger one is told, at most


@dataclass(frozen=True)
class Plan:
    """What a training takes; bytes, and seconds (None without a trial)."""

    parameters: int  # count
    weights: int  # bytes of parameters and buffers
    gradients: int
    optimizer: int
    averages: int
    activations: int  # the most that a forward and backward pass of one microbatch holds beside the above
    extra: int  # copies for update norms
    checkpoint: int  # bytes of one checkpoint on disk
    disk: int  # bytes of all checkpoints that are kept, with the one that is being written
    step_seconds: float | None
    seconds: float | None  # of all steps

    @property
    def peak(self) -> int:
        """Expected peak of memory beyond the data: standing parts, and the larger of a pass and of the copies."""
        standing = self.weights + self.optimizer + self.averages
        return standing + max(self.activations, self.gradients + self.extra)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"peak": self.peak}

    def lines(self) -> list[str]:
        """In words, one part a line."""
        long = "not tried" if self.seconds is None else f"{_duration(self.seconds)} ({self.step_seconds:.3g} s a step)"
        return [
            f"parameters    {self.parameters:,}",
            f"peak memory   {size(self.peak)} expected, beyond the data",
            f"  weights     {size(self.weights)}",
            f"  gradients   {size(self.gradients)}",
            f"  optimizer   {size(self.optimizer)}",
            f"  averages    {size(self.averages)}",
            f"  one microbatch     {size(self.activations)} with its gradients",
            f"checkpoints   {size(self.checkpoint)} each, {size(self.disk)} in all",
            f"time          {long}",
        ]


def plan(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    *,
    rng: Rng,
    trial: int = TRIAL,
) -> Plan:
    """What ``fit`` with the same arguments would take in one process.  The networks are left as they are.

    It is tried where the networks are.
    Memory of a pass: measured on microbatches of two sizes, neither above 64, and continued along a line.
    Time: the median of a trial of ``trial`` steps on a copy, without the first ones; 0 leaves it out.
    """
    nets = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    extra = spec_of(objective).networks
    if extra is not None:
        with rng.fork("networks").ambient():
            nets |= extra()
    where = device_of(nets) or torch.device("cpu")
    nets = {name: net.to(where) for name, net in nets.items()}
    objective = moved(objective, where, {id(m): m for net in nets.values() for m in net.modules()})
    parameters = [p for net in nets.values() for p in net.parameters()]
    learning = [p for p in parameters if p.requires_grad]
    weights = _bytes(parameters) + _bytes([b for net in nets.values() for b in net.buffers()])
    averages = sum(p.numel() * max(4, p.element_size()) for p in parameters) * len(training.profiles)
    optimizer = round(_bytes(learning) * _memory_of(training.optimizer))
    few, more = max(1, min(PROBE, training.microbatch_size) // 2), max(2, min(PROBE, training.microbatch_size))
    small, large = (_pass(nets, objective, data, training, rng, count) for count in (few, more))
    slope = (large - small) / (more - few)
    watched = 2 * _bytes(learning) if training.watch_every <= training.steps else 0
    one = weights + averages + optimizer
    seconds = _trial(nets, objective, data, training, rng, trial) if trial else None
    return Plan(
        parameters=sum(p.numel() for p in parameters),
        weights=weights,
        gradients=_bytes(learning),
        optimizer=optimizer,
        averages=averages,
        activations=round(large + slope * (training.microbatch_size - more)),
        extra=watched,
        checkpoint=one,
        disk=one * (min(training.checkpoint_keep, max(1, training.steps // training.checkpoint_every)) + 1)
        + (averages * (training.steps // training.snapshot_every) if training.snapshot_every else 0),
        step_seconds=seconds,
        seconds=None if seconds is None else seconds * training.steps,
    )


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _memory_of(optimizer: Optimizer) -> float:
    """Bytes of an optimizer's memory for every byte of parameters, seen on one small matrix."""
    p = nn.Parameter(torch.ones(32, 32))
    made: Any = optimizer.build([p], 1.0)
    if optimizer.averages:
        in_use(made, False)
    p.grad = torch.ones_like(p)
    made.step()
    held = sum(v.numel() * v.element_size() for v in made.state[p].values() if isinstance(v, torch.Tensor) and v.ndim)
    return held / (p.numel() * p.element_size())


def _pass(nets: Mapping[str, nn.Module], objective: Any, data: Any, training: Training, rng: Rng, count: int) -> int:
    """The most that a forward and a backward pass hold, gradients with them."""
    compute = training.compute
    first = next(p for net in nets.values() for p in net.parameters())
    batch = to(as_microbatches(data, rng).microbatch(0, count), first.device)
    most = 0
    buffers = [(b, b.detach().clone()) for net in nets.values() for b in net.buffers()]
    with compute.prepared(nets):
        for player in players(objective, nets):
            kept = [p.grad for p in player.parameters]
            for p in player.parameters:
                p.grad = None
            with Tracker() as tracker, rng.fork("plan").ambient(), compute.autocast(first.device):
                loss = player.loss(batch, rng)
                loss.value.backward()  # type: ignore[no-untyped-call]
                most = max(most, tracker.peak)
            for p, grad in zip(player.parameters, kept, strict=True):
                p.grad = grad
    with torch.no_grad():
        for b, before in buffers:
            b.copy_(before)
    return most


def _trial(nets: Mapping[str, nn.Module], objective: Any, data: Any, training: Training, rng: Rng, steps: int) -> float:
    """Seconds of one step, from the middle of a short trial on a copy."""
    copies = {name: copy.deepcopy(net) for name, net in nets.items()}
    training = replace(training, early_stopping=None)  # nothing is held out here
    where = device_of(copies) or torch.device("cpu")
    loop = Loop(copies, objective, data, training, SingleDevice(), rng, lambda entry: None, None, (), where)
    taken = []
    with training.compute.prepared(copies):
        for _ in range(min(steps, training.steps)):
            start = time.perf_counter()
            loop.step()
            taken.append(max(0.0, time.perf_counter() - start))  # a clock may run backwards
    later = sorted(taken[2:] or taken)
    return later[len(later) // 2]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
