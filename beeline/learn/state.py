"""The state of a training run: everything that a checkpoint has to hold, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.types import require
from beeline.learn.checkpoint import Checkpoint
from beeline.learn.ema import Average
from beeline.learn.game import Player


@dataclass
class State:
    """Networks, players with their optimisers, averages, and the count of steps.  It changes as training goes on."""

    networks: Mapping[str, nn.Module]
    players: Sequence[Player]
    optimisers: Mapping[str, torch.optim.Optimizer]  # by player
    averages: Mapping[str, Sequence[Average]]  # by network
    step: int = 0  # steps done
    best: dict[str, float] = field(default_factory=dict)  # lowest held-out losses so far
    notes: dict[str, Any] = field(default_factory=dict)  # plain data of parts that remember (pruning, weighting)
    extras: dict[str, Tensor] = field(default_factory=dict)  # tensors of the same

    def names(self) -> dict[int, str]:
        """The name of every parameter, ``network.layer.weight``, by identity."""
        return {id(p): f"{name}.{key}" for name, net in self.networks.items() for key, p in net.named_parameters()}

    def save(self, settings: Any, more: Mapping[str, Any] | None = None) -> Checkpoint:
        """The whole state as tensors and plain data."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, net in self.networks.items():
            tensors[name] = {k: v.detach() for k, v in named(net).items()}
            for i, average in enumerate(self.averages.get(name, ())):
                tensors[f"{name}.ema{i}"] = average.state()
        plain: dict[str, Any] = {}
        names = self.names()
        for player, optimiser in self.optimisers.items():
            tensors[f"{player}.optimiser"], plain[player] = _optimiser_state(optimiser, names)
        if self.extras:
            tensors["extras"] = dict(self.extras)
        state = {
            "step": self.step,
            "settings": settings,
            "best": self.best,
            "notes": self.notes,
            "optimisers": plain,
            "groups": sorted(tensors),
        } | dict(more or {})
        return Checkpoint(self.step, tensors, state)

    @torch.no_grad()
    def load(self, saved: Checkpoint) -> None:
        """Become the saved state, exactly; every tensor has to match by name and shape."""
        for name, net in self.networks.items():
            _copy(named(net), saved.tensors.get(name, {}), name)
            for i, average in enumerate(self.averages.get(name, ())):
                _copy(average.state(), saved.tensors.get(f"{name}.ema{i}", {}), f"{name}.ema{i}")
        names = self.names()
        for player, optimiser in self.optimisers.items():
            group = saved.tensors.get(f"{player}.optimiser", {})
            _optimiser_load(optimiser, names, group, saved.state["optimisers"].get(player, {}))
        self.step = saved.state["step"]
        self.best = dict(saved.state.get("best", {}))
        self.notes = dict(saved.state.get("notes", {}))
        self.extras = dict(saved.tensors.get("extras", {}))


def named(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and lasting buffers by name, shared ones once."""
    lasting = set(net.state_dict(keep_vars=True))
    buffers = {k: v for k, v in net.named_buffers() if k in lasting}
    return dict(net.named_parameters()) | buffers


def _copy(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    missing, left = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    require(
        not missing and not left,
        f"the checkpoint does not fit {what}: it lacks {missing[:3]} and has {left[:3]} too many "
        f"({len(missing)} and {len(left)}); resume with the network that was saved",
    )
    for key, tensor in wanted.items():
        require(
            tensor.shape == found[key].shape,
            f"{what} {key} has shape {tuple(tensor.shape)}, but {tuple(found[key].shape)} in the checkpoint; "
            "resume with the network that was saved",
        )
        tensor.data.copy_(found[key])


def _optimiser_state(optimiser: Any, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The memory of an optimiser by parameter name; numbers that are not tensors go to plain data."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for p, memory in optimiser.state.items():
        if not isinstance(p, Tensor):
            continue
        for key, value in memory.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            target[f"{names[id(p)]}/{key}"] = value
    groups = [{k: v for k, v in g.items() if k != "params" and _plain(v)} for g in optimiser.param_groups]
    return tensors, {"numbers": numbers, "groups": groups}


def _optimiser_load(optimiser: Any, names: Mapping[int, str], tensors: Mapping[str, Tensor], plain: Any) -> None:
    memory: dict[str, dict[str, Any]] = {}
    for full, value in (*tensors.items(), *plain.get("numbers", {}).items()):
        name, key = full.rsplit("/", 1)
        memory.setdefault(name, {})[key] = value
    for group in optimiser.param_groups:
        for p in group["params"]:
            for key, value in memory.get(names[id(p)], {}).items():
                if isinstance(value, Tensor):  # counters of one number may live on the CPU, everything else with p
                    value = value.to(p.device) if value.ndim or group.get("fused") else value
                optimiser.state[p][key] = value
    for group, saved in zip(optimiser.param_groups, plain.get("groups", []), strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple | list)
