"""The mutable state of a training run, which is saved in checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.old_names import FORMAT
from beeline.core.protocols.objectives import Player
from beeline.training import checkpoint
from beeline.training.checkpoint import Checkpoint
from beeline.training.compare import fingerprint
from beeline.training.distributed.parallel import full_tensor, local
from beeline.training.optim.ema import Average


@dataclass
class State:
    """Networks, players, optimizers, averages and the number of completed steps."""

    networks: Mapping[str, nn.Module]
    players: Sequence[Player]
    optimizers: Mapping[str, torch.optim.Optimizer]  # by player
    averages: Mapping[str, Sequence[Average]]  # by network
    step: int = 0  # completed steps
    best: dict[str, float] = field(default_factory=dict)  # lowest held-out losses so far
    notes: dict[str, Any] = field(default_factory=dict)  # JSON state of the loop and of the feed
    extras: dict[str, Tensor] = field(default_factory=dict)  # tensors of the feed

    def __post_init__(self) -> None:
        fixed = [p for net in self.networks.values() for p in net.parameters() if not p.requires_grad]
        self._fixed = {id(p): (p, _version(p)) for p in fixed}

    @functools.cached_property
    def frozen(self) -> dict[str, dict[str, str]]:
        """Fingerprints of the frozen parameters by network; checkpoints hold them instead of the values."""
        found = {
            name: {k: fingerprint(full_tensor(p)) for k, p in net.named_parameters() if self._is_frozen(p)}
            for name, net in self.networks.items()
        }
        return {name: prints for name, prints in found.items() if prints}

    def _is_frozen(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter without gradient that was not changed in place since the start."""
        known = self._fixed.get(id(tensor))
        return known is not None and known[1] == _version(tensor)

    def learned(self, name: str) -> dict[str, Tensor]:
        """Parameters and persistent buffers of a network without the frozen ones, by name."""
        return {k: v.detach() for k, v in named(self.networks[name]).items() if not self._is_frozen(v)}

    def names(self) -> dict[int, str]:
        """The name of every parameter, ``network.layer.weight``, by identity."""
        return {id(p): f"{name}.{key}" for name, net in self.networks.items() for key, p in net.named_parameters()}

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """The averages of all networks, by the name of their file."""
        named = [(name, i, average) for name, several in self.averages.items() for i, average in enumerate(several)]
        return {f"{name}.ema{i}": average.state() for name, i, average in named}

    def buffers(self) -> dict[str, dict[str, Tensor]]:
        """The persistent buffers of all networks that have some, by the name of their file."""
        found = {f"{name}.buffers": buffers_of(net) for name, net in self.networks.items()}
        return {group: buffers for group, buffers in found.items() if buffers}

    def save(self, settings: Any, more: Mapping[str, Any] | None = None) -> Checkpoint:
        """The state as a checkpoint of tensors and JSON data; ``more`` is added to the JSON data."""
        tensors = {name: self.learned(name) for name in self.networks} | self.averaged()
        plain: dict[str, Any] = {}
        names = self.names()
        for player, optimizer in self.optimizers.items():
            tensors[f"{player}.optimizer"], plain[player] = _optimizer_state(optimizer, names)
        if self.extras:
            tensors["extras"] = dict(self.extras)
        state = {
            "format": FORMAT,
            "step": self.step,
            "settings": settings,
            "best": self.best,
            "notes": self.notes,
            "optimizers": plain,
            "groups": sorted(tensors),
            "frozen": self.frozen,
        } | dict(more or {})
        return Checkpoint(self.step, tensors, state)

    @torch.no_grad()
    def load(self, path: Path, optimizers: bool = True, averages: bool = True) -> None:
        """Load a checkpoint; every tensor has to match by name and shape, and frozen parameters by content.

        Without ``optimizers`` their state is not loaded.  Without ``averages`` the checkpoint may lack averages, which
        are then initialised with its weights.
        """
        saved, found = checkpoint.state(path), checkpoint.contents(path)
        expected: dict[str, dict[str, Tensor]] = {}
        for name, net in self.networks.items():
            stored = {k.split("/", 1)[1] for k in found if k.startswith(f"{name}/")}
            expected[name] = self.learned(name) | {k: v.detach() for k, v in named(net).items() if k in stored}
            _match_frozen(name, self.frozen.get(name, {}), saved.get("frozen", {}).get(name, {}))
        groups = {k.split("/")[0] for k in found}
        own = self.averaged()
        new = [group for group in own if not averages and group not in groups]
        expected |= {group: tensors for group, tensors in own.items() if group not in new}
        targets = {f"{group}/{k}": v for group, tensors in expected.items() for k, v in tensors.items()}
        for group in expected:
            shapes = {k.split("/", 1)[1]: v[0] for k, v in found.items() if k.split("/")[0] == group}
            _match(group, expected[group], shapes)
        extras = {k: torch.empty(v[0], dtype=v[1]) for k, v in found.items() if k.startswith("extras/")}
        targets |= extras
        names = self.names()
        for player, optimizer in self.optimizers.items() if optimizers else ():
            plain = saved["optimizers"].get(player, {})
            targets |= _optimizer_load(optimizer, names, found, f"{player}.optimizer", plain)
        checkpoint.fill(path, targets)
        for group in new:
            weights = dict(self.networks[group.rsplit(".", 1)[0]].named_parameters())
            for name, tensor in own[group].items():
                local(tensor).copy_(local(weights[name]))
        self.step = saved["step"]
        self.best = dict(saved.get("best", {}))
        self.notes = dict(saved.get("notes", {}))
        self.extras = {k.removeprefix("extras/"): v for k, v in extras.items()}


def named(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, shared ones once."""
    return dict(net.named_parameters()) | buffers_of(net)


def buffers_of(net: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers of a network, by name."""
    persistent = set(net.state_dict(keep_vars=True))
    return {k: v.detach() for k, v in net.named_buffers() if k in persistent}


def _match_frozen(name: str, own: Mapping[str, str], saved: Mapping[str, str]) -> None:
    """Refuse a checkpoint of a network with other frozen parameters, which it does not hold."""
    other = [key for key, value in saved.items() if own.get(key) != value]
    require(
        not other,
        f"{len(other)} frozen parameters of {name} differ from those of the run, {other[:3]}; a checkpoint holds the "
        "fingerprints of parameters that do not learn, not their values: resume with the same frozen parameters",
    )


def _match(group: str, expected: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint whose tensors differ from the expected ones by name or shape."""
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    require(
        not missing and not unexpected,
        f"the checkpoint does not match {group}: {len(missing)} tensors are missing {missing[:3]}, {len(unexpected)} "
        f"are unexpected {unexpected[:3]}; resume with the network that was saved",
    )
    for key, tensor in expected.items():
        require(
            tuple(tensor.shape) == tuple(found[key]),
            f"{group} {key} has shape {tuple(tensor.shape)}, but {tuple(found[key])} in the checkpoint; "
            "resume with the network that was saved",
        )


def _optimizer_state(optimizer: Any, names: Mapping[int, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer by parameter name: tensors, and JSON data for the other values."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for p, values in optimizer.state.items():
        if not isinstance(p, Tensor):
            continue
        for key, value in values.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            target[f"{names[id(p)]}/{key}"] = value
    groups = [{k: v for k, v in g.items() if k != "params" and _plain(v)} for g in optimizer.param_groups]
    return tensors, {"numbers": numbers, "groups": groups}


def _optimizer_load(
    optimizer: Any,
    names: Mapping[int, str],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    group: str,
    plain: Any,
) -> dict[str, Tensor]:
    """Allocate the state of an optimizer; the tensors to be filled, by their names in the checkpoint."""
    targets: dict[str, Tensor] = {}
    saved: dict[str, dict[str, Any]] = {}
    for full in found:
        if full.startswith(f"{group}/"):
            name, key = full[len(group) + 1 :].rsplit("/", 1)
            saved.setdefault(name, {})[key] = full
    numbers: dict[str, dict[str, Any]] = {}
    for full, value in plain.get("numbers", {}).items():
        name, key = full.rsplit("/", 1)
        numbers.setdefault(name, {})[key] = value
    for part in optimizer.param_groups:
        for p in part["params"]:
            for key, full in saved.get(names[id(p)], {}).items():
                shape, dtype = found[full]
                if shape == tuple(p.shape):  # sharded like the parameter
                    target = torch.empty_like(p, dtype=dtype, requires_grad=False)
                else:  # scalar counters may be on the CPU
                    target = torch.empty(shape, dtype=dtype, device=p.device if shape or part.get("fused") else None)
                optimizer.state[p][key] = targets[full] = target
            if names[id(p)] in numbers:
                optimizer.state[p].update(numbers[names[id(p)]])
    for part, group_settings in zip(optimizer.param_groups, plain.get("groups", []), strict=True):
        part.update({k: tuple(v) if isinstance(v, list) else v for k, v in group_settings.items()})
    return targets


def _version(tensor: Tensor) -> int:
    """The number of changes in place of a tensor."""
    shard = local(tensor.detach())
    return 0 if shard.is_inference() else shard._version


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple | list)
