"""Which visits of blocks matter for a trained control."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from beeline.core.errors import nearest, require
from beeline.networks.controls.control import PlacedModule
from beeline.networks.controls.with_control import controls_of


def relevance(field: Any, loss: Callable[[nn.Module], float], name: str = "hint") -> dict[int, float]:
    """How much a loss grows without what a control adds after one visit, by the number of the visit.

    Assumes a trained ControlBranch, RelaCtrl or T2IAdapter; ``loss`` is evaluated once more than there are visits, such
    as the error of hints of samples plus a distance.
    Source: Cao et al. 2025, RelaCtrl (arXiv 2502.14377).
    """
    made = copy.deepcopy(field)
    known = controls_of(made)
    require(name in known, f"there is no control {name!r}; {nearest(name, known)}")
    module = known[name].control
    require(
        isinstance(module, PlacedModule),
        f"the relevance of visits was asked for {type(known[name].settings['control']).__name__}, which adds at one "
        "place or everywhere; it is that of a ControlBranch, RelaCtrl or T2IAdapter",
    )
    assert isinstance(module, PlacedModule)
    whole, found = loss(made), {}
    for k, layer in zip(module.places, module.out, strict=True):
        kept = copy.deepcopy(layer.state_dict())
        with torch.no_grad():
            for p in layer.parameters():
                p.zero_()
            found[k] = loss(made) - whole
        layer.load_state_dict(kept)
    return found


def most_relevant(found: Mapping[int, float], count: int) -> tuple[int, ...]:
    """The visits with the largest relevance, in their order.

    >>> most_relevant({0: 0.1, 1: 0.5, 2: 0.3}, 2)
    (1, 2)
    """
    require(
        1 <= count <= len(found),
        f"{count} visits were asked for of {len(found)} with a relevance; give 1 to {len(found)}",
    )
    return tuple(sorted(sorted(found, key=lambda k: -found[k])[:count]))
