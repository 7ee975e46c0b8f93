"""The network of a run, built from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from beeline.config import build as config
from beeline.config.catalogue import settings
from beeline.config.settings import construct
from beeline.core.declared import traits_of
from beeline.core.errors import nearest, require
from beeline.core.protocols.objectives import Objective, spec_of
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Flow, MapNetwork, Network
from beeline.solvers.process import Process, process_of

FROM_DATA = {"shape", "size", "conditions", "groups", "rows"}


def architecture(network: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of a network given as plain data, and its settings."""
    require(
        isinstance(network.get("is"), str),
        f"the network is {dict(network)}, which names no class; give 'is', for example networks.DiT",
    )
    return config.lookup("networks", network["is"]), {k: v for k, v in network.items() if k != "is"}


def check_network(network: Mapping[str, Any]) -> None:
    """Refuse settings that the class does not have, or that come from the data."""
    cls, given = architecture(network)
    known = set(settings(cls)) - FROM_DATA
    for setting in given:
        require(setting in known, f"{network['is']} has no setting {setting!r} here; {nearest(setting, known)}")


def architecture_of(field: Any) -> dict[str, Any]:
    """The network of a flow as plain data without what comes from the data, as ``build_network`` takes it.

    ValueError for a network that is not one of the package inside a Network.
    """
    require(
        isinstance(field, Network),
        f"the network of the teacher is a {type(field).__name__}, whose settings cannot be changed one by one; give a "
        "whole one, such as --set \"network={'is': 'networks.MLP', 'width': 64}\"",
    )
    plain: dict[str, Any] = config.describe(field.backbone)
    return {name: value for name, value in plain.items() if name not in FROM_DATA}


def build_network(
    network: Mapping[str, Any], objective: Objective, seed: int, modality: Any, batch: Batch
) -> nn.Module:
    """The network of a run from plain data, initialised under ``seed``; the objective's spec may wrap it."""
    cls, given = architecture(network)
    known = settings(cls)
    spec = spec_of(objective)
    offered = {"shape": tuple(modality.shape), "conditions": dict(modality.conditions) | dict(spec.conditions)}
    offered |= modality.offers
    given.update({k: v for k, v in offered.items() if k in known})
    if spec.span:
        require(
            "span" in known,
            f"{type(objective).__name__} trains a flow map, and {network['is']} takes no second time; use network=MLP, "
            "network=UNet or network=DiT",
        )
        given["span"] = True
    with Rng(seed).fork("network").ambient():
        backbone = construct(cls, cls.__name__, given, "network")
    require(
        modality.fixed_size or traits_of(backbone).any_size,
        f"the data have several sizes, but {network['is']} takes one; set network=UNet or network=DiT, or use data of "
        "one size",
    )
    path: Any = spec.path
    process = Process() if path is None else process_of(Flow(None, path))
    path = None if process.resizes else path  # a path through several sizes has no convention for networks
    kind = MapNetwork if given.get("span") else Network
    made: nn.Module = process.wrap_network(kind(backbone, path, spec.prediction))
    return made if spec.wrap is None else spec.wrap(made, batch, Rng(seed).fork("wrap"))
