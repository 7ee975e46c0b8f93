"""The training of a student by the engine, one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from beeline.core.modes import device_of, moved
from beeline.core.protocols.training import Distillation
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow
from beeline.training.config import Training
from beeline.training.distributed.parallel import SingleDevice
from beeline.training.loop import Loop
from beeline.training.players import all_networks


def loop_of(networks: Mapping[str, nn.Module], objective: Any, data: Any, training: Training, rng: Rng) -> Loop:
    """The training that ``fit`` does, before its first step."""
    nets = all_networks(networks, objective, rng)
    seen: dict[int, Any] = {id(m): m for net in nets.values() for m in net.modules()}
    device = device_of(next(iter(networks.values()))) or torch.device("cpu")
    nets = {name: net.to(device) for name, net in nets.items()}
    return Loop(nets, moved(objective, device, seen), data, training, SingleDevice(), rng, _silent, None, [], device)


def student_loop(method: Distillation, teacher: Flow, initial: Flow, data: Batch, training: Training, rng: Rng) -> Loop:
    """The training of a student, which starts from the network of ``initial``, on data that the method has made."""
    feed = method.feed(teacher, data, rng.fork("feed"))
    return loop_of(method.networks(initial), method.objective(teacher), feed, training, rng.fork("training"))


def _silent(entry: Any) -> None:
    return None
