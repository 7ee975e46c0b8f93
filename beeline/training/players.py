"""Players: one code path for a single loss and for adversarial objectives with several losses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.objectives import AdversarialObjective, Player, spec_of
from beeline.core.rng import Rng


def players(objective: Any, networks: Mapping[str, nn.Module]) -> list[Player]:
    """The players of an adversarial objective, or one player for any other objective.

    An objective is called with its network, or with a mapping of networks if there are several.
    """
    if isinstance(objective, AdversarialObjective):
        found = list(objective.players(**networks))
        names = [p.name for p in found]
        require(
            found and len(set(names)) == len(names),
            f"{type(objective).__name__} has the players {names}; give at least one, each with its own name",
        )
    else:
        field = next(iter(networks.values())) if len(networks) == 1 else networks
        trainable = [p for net in networks.values() for p in net.parameters() if p.requires_grad]
        static = spec_of(objective).static_graph
        found = [Player("loss", lambda batch, rng: objective(field, batch, rng), trainable, static_graph=static)]
    for player in found:
        require(
            player.parameters,
            f"the player {player.name!r} has no trainable parameters; give a network with parameters that require "
            "gradients",
        )
        require(
            player.every >= 1,
            f"the player {player.name!r} has every={player.every}; it is a number of steps: give 1 or more",
        )
    return found


def all_networks(networks: nn.Module | Mapping[str, nn.Module], objective: Any, rng: Rng) -> dict[str, nn.Module]:
    """The networks of a run by name, with those that its objective trains beside them."""
    nets = {"network": networks} if isinstance(networks, nn.Module) else dict(networks)
    extra = spec_of(objective).networks
    if extra is not None:
        with rng.fork("networks").ambient():
            nets = nets | {name: net for name, net in extra().items() if name not in nets}
    return nets


@contextlib.contextmanager
def moving(player: Player, everyone: Sequence[Player]) -> Iterator[None]:
    """Context manager: the parameters of the other players take no gradients, which saves their memory."""
    mine = {id(p) for p in player.parameters}
    others = {id(p): p for one in everyone for p in one.parameters if id(p) not in mine and p.requires_grad}
    for p in others.values():
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others.values():
            p.requires_grad_(True)
