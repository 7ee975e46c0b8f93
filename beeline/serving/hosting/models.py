"""Models from bundles: those that differ by low rank share a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from beeline.core.errors import require
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.inside import backbone_of
from beeline.runs.bundle import Bundle
from beeline.serving.hosting.deltas import fingerprint
from beeline.serving.hosting.hosts import Host, mixes
from beeline.serving.hosting.residents import Residents
from beeline.serving.works import Model


def hosted(
    bundles: Mapping[str, Bundle], residents: Residents, most: int, devices: Sequence[str | torch.device] = ()
) -> dict[str, Model]:
    """A model for every bundle, each loaded once, with sizes of batches up to ``most`` that give equal bits."""
    kept: dict[str, Bundle] = {}
    prints: dict[str, str | None] = {}  # of adapted networks; None of others
    for name, bundle in bundles.items():
        require(
            isinstance(bundle.flow.field, nn.Module) and bundle.modality is not None,
            f"{name} has no network of its own, or does not know its data; serve a bundle that training left",
        )
        changed = isinstance(backbone_of(bundle.flow.field), Adapted)
        prints[name] = fingerprint(bundle.flow.field) if changed else None
        kept[name] = bundle if residents.most is None else bundle.to("meta")
    hosts = {name: Host([name], bundles, most, devices) for name, found in prints.items() if found is None}
    bases = (
        {fingerprint(bundles[name].flow.field): host for name, host in hosts.items()} if any(prints.values()) else {}
    )
    for name, found in prints.items():
        base = bases.get(found or "")
        if base is not None and mixes(bundles[base.names[0]], bundles[name]):
            base.names.append(name)
            hosts[name] = base
        elif found is not None:
            hosts[name] = Host([name], bundles, most, devices)
    for host in dict.fromkeys(hosts.values()):
        with residents.use(host):
            pass  # it is loaded and warm
    return {name: Model(name, kept[name], hosts[name], residents) for name in bundles}
