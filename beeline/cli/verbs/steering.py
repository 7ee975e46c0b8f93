"""Controllers in the notation of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from beeline.config.settings import free, prefixed, read
from beeline.core.declared import missing
from beeline.core.errors import require
from beeline.core.protocols.steering import Controller
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.descending import EnergyGuidance


def steered(sampler: Any, texts: Sequence[str]) -> Sampler:
    """The sampler with the controllers of ``--steer`` after its own; an energy is followed by EnergyGuidance."""
    require(
        isinstance(sampler, Sampler), f"--set sampler={sampler!r} is not a sampler; give, for example, Sampler(steps=8)"
    )
    return cast(Sampler, replace(sampler, controllers=(*sampler.controllers, *map(controller, texts))))


def controller(text: str) -> Controller:
    """The controller that a text names, or EnergyGuidance along the energy that it names."""
    with prefixed("--steer"):
        made = free(read(text), "", ("controllers", "energies"), strict=True)
        return EnergyGuidance(made) if missing(made, Controller) else cast(Controller, made)
