"""Estimates of the memory, disk space and time of a training before it starts."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from beeline.core.modes import device_of, moved
from beeline.core.rng import Rng
from beeline.core.types import to
from beeline.training.distributed.parallel import SingleDevice
from beeline.training.distributed.teachers import frozen, frozen_bytes
from beeline.training.feed.sources import as_microbatches
from beeline.training.loop import Loop
from beeline.training.memory import Tracker, size
from beeline.training.optim.optimizers import in_use
from beeline.training.players import all_networks, moving, players

if TYPE_CHECKING:
    from beeline.core.protocols.training import Optimizer
    from beeline.training.config import Training


TRIAL = 10  # steps
PROBE = 64  # largest microbatch that is measured; the memory of a larger one is extrapolated


@dataclass(frozen=True)
class Plan:
    """Estimated memory and disk space in bytes, and time in seconds (None without a trial)."""

    parameters: int  # count
    weights: int  # bytes of parameters and buffers
    gradients: int
    optimizer: int
    averages: int
    activations: int  # peak of a forward and backward pass of one microbatch, in addition to the above
    extra: int  # copies for update norms
    checkpoint: int  # bytes of one checkpoint on disk
    disk: int  # bytes of all stored checkpoints, including the one being written
    step_seconds: float | None
    seconds: float | None  # all steps
    teacher: int = 0  # bytes of the networks that the objective holds and does not train

    @property
    def peak(self) -> int:
        """Estimated peak memory without the data: persistent tensors, and the larger of a pass and of the copies."""
        persistent = self.weights + self.optimizer + self.averages + self.teacher
        return persistent + max(self.activations, self.gradients + self.extra)

    def plain(self) -> dict[str, Any]:
        """The estimate as plain data."""
        return asdict(self) | {"peak": self.peak}

    def lines(self) -> list[str]:
        """The estimate as lines of text."""
        duration = (
            "not measured" if self.seconds is None else f"{_duration(self.seconds)} ({self.step_seconds:.3g} s a step)"
        )
        return [
            f"parameters    {self.parameters:,}",
            f"peak memory   {size(self.peak)} estimated, without the data",
            f"  weights     {size(self.weights)}",
            f"  gradients   {size(self.gradients)}",
            f"  optimizer   {size(self.optimizer)}",
            f"  averages    {size(self.averages)}",
            *([f"  teacher     {size(self.teacher)}, frozen"] if self.teacher else []),
            f"  activations {size(self.activations)} of one microbatch, with gradients",
            f"checkpoints   {size(self.checkpoint)} each, {size(self.disk)} in total",
            f"time          {duration}",
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
    """Estimate what ``fit`` with the same arguments takes in one process; the networks are not changed.

    It is measured on the device of the networks.  Memory of a pass: measured for two sizes of microbatches of at most
    64 data, and extrapolated linearly.  Time: the median of ``trial`` steps on a copy, without the first two; 0 skips
    the trial.
    """
    nets = all_networks(networks, objective, rng)
    device = device_of(nets) or torch.device("cpu")
    nets = {name: net.to(device) for name, net in nets.items()}
    objective = moved(objective, device, {id(m): m for net in nets.values() for m in net.modules()})
    parameters = [p for net in nets.values() for p in net.parameters()]
    trainable = [p for p in parameters if p.requires_grad]
    weights = _bytes(parameters) + _bytes([b for net in nets.values() for b in net.buffers()])
    averages = sum(p.numel() * max(4, p.element_size()) for p in parameters) * len(training.profiles)
    optimizer = round(_bytes(trainable) * _state_ratio(training.optimizer))
    few, more = max(1, min(PROBE, training.microbatch_size) // 2), max(2, min(PROBE, training.microbatch_size))
    with frozen(objective, nets):
        small, large = (_pass_bytes(nets, objective, data, training, rng, count) for count in (few, more))
    slope = (large - small) / (more - few)
    copies = 2 * _bytes(trainable) if training.watch_every <= training.steps else 0
    one = weights + averages + optimizer
    seconds = step_seconds(networks, objective, data, training, rng, trial) if trial else None
    return Plan(
        parameters=sum(p.numel() for p in parameters),
        weights=weights,
        gradients=_bytes(trainable),
        optimizer=optimizer,
        averages=averages,
        activations=round(large + slope * (training.microbatch_size - more)),
        extra=copies,
        checkpoint=one,
        disk=one * (min(training.checkpoint_keep, max(1, training.steps // training.checkpoint_every)) + 1)
        + (averages * (training.steps // training.snapshot_every) if training.snapshot_every else 0),
        step_seconds=seconds,
        seconds=None if seconds is None else seconds * training.steps,
        teacher=frozen_bytes(objective, nets),
    )


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _state_ratio(optimizer: Optimizer) -> float:
    """Bytes of optimizer state per byte of parameters, measured on one small matrix."""
    p = nn.Parameter(torch.ones(32, 32))
    built: Any = optimizer.build([p], 1.0)
    if optimizer.averages:
        in_use(built, False)
    p.grad = torch.ones_like(p)
    built.step()
    state = [v for v in built.state[p].values() if isinstance(v, torch.Tensor) and v.ndim]
    return _bytes(state) / _bytes([p])


def _pass_bytes(
    nets: Mapping[str, nn.Module], objective: Any, data: Any, training: Training, rng: Rng, count: int
) -> int:
    """Peak bytes of a forward and a backward pass on ``count`` data, including gradients."""
    compute = training.compute
    first = next(p for net in nets.values() for p in net.parameters())
    batch = to(as_microbatches(data, rng).microbatch(0, count), first.device)
    peak = 0
    buffers = [(b, b.detach().clone()) for net in nets.values() for b in net.buffers()]
    with compute.prepared(nets):
        everyone = players(objective, nets)
        for player in everyone:
            gradients = [p.grad for p in player.parameters]
            for p in player.parameters:
                p.grad = None
            ambient = rng.fork("plan").ambient()
            with Tracker() as tracker, ambient, compute.autocast(first.device), moving(player, everyone):
                loss = player.loss(batch, rng)
                loss.value.backward()  # type: ignore[no-untyped-call]
                peak = max(peak, tracker.peak)
            for p, grad in zip(player.parameters, gradients, strict=True):
                p.grad = grad
    with torch.no_grad():
        for b, before in buffers:
            b.copy_(before)
    return peak


def step_seconds(
    networks: nn.Module | Mapping[str, nn.Module],
    objective: Any,
    data: Any,
    training: Training,
    rng: Rng,
    steps: int,
    limit: float = float("inf"),
) -> float:
    """Seconds of one step: the median of a trial of ``steps`` steps on a copy, or fewer after ``limit`` seconds."""
    device = device_of(networks) or torch.device("cpu")
    copies = {name: copy.deepcopy(net).to(device) for name, net in all_networks(networks, objective, rng).items()}
    training = replace(training, early_stopping=None)  # no held-out data here
    loop = Loop(copies, objective, data, training, SingleDevice(), rng, lambda entry: None, None, (), device)
    seconds = []
    with frozen(objective, copies), training.compute.prepared(copies):
        for _ in range(min(steps, training.steps)):
            start = time.perf_counter()
            loop.step()
            seconds.append(max(0.0, time.perf_counter() - start))  # a clock may run backwards
            if len(seconds) > 1 and sum(seconds) > limit:  # the first step pays for what later ones find ready
                break
    steady = sorted(seconds[2:] or seconds[-1:])
    if any(player.every > 1 for player in loop.state.players):  # steps differ in what they train
        return sum(steady) / len(steady)
    return steady[len(steady) // 2]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
