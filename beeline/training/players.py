"""Players: one code path for a single loss and for games in which several networks learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from beeline.core.errors import require
from beeline.core.protocols.objectives import AdversarialObjective, Player


def players(objective: Any, networks: Mapping[str, nn.Module]) -> list[Player]:
    """The players of a game, or the one player of an objective.

    An objective is called with its network; with a mapping of networks when there are several.
    """
    if isinstance(objective, AdversarialObjective):
        found = list(objective.players(**networks))
        names = [p.name for p in found]
        require(
            found and len(set(names)) == len(names),
            f"{type(objective).__name__} has the players {names}; a game needs at least one, each with its own name",
        )
    else:
        field = next(iter(networks.values())) if len(networks) == 1 else networks
        every = [p for net in networks.values() for p in net.parameters() if p.requires_grad]
        found = [Player("loss", lambda batch, rng: objective(field, batch, rng), every)]
    for player in found:
        require(
            player.parameters,
            f"the player {player.name!r} has no parameters to learn; give a network with parameters that require "
            "gradients (unfreeze some)",
        )
        require(player.every >= 1, f"the player {player.name!r} moves every {player.every} steps; give 1 or more")
    return found
