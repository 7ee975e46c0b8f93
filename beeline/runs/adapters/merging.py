"""Adapters put into the weights of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beeline.core.errors import require
from beeline.core.files import sha256
from beeline.networks.adapters.adapted import WithAmount, merged
from beeline.networks.adapters.delta import layers_of
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.adapters.merges import Merge, merged_networks
from beeline.runs.adapters.files import load, read
from beeline.runs.bundle import Bundle


def merge_files(
    bundle: Bundle, files: Sequence[Path], weights: Sequence[float] = (), by: Merge | None = None
) -> tuple[Bundle, dict[str, Any]]:
    """A bundle with adapters in its weights, in the given order, each with its weight; and a report.

    Changes that add are independent of the order.  With a rule ``by``, the changes of all weights are merged by it
    instead.  Raises ValueError for another number of weights than files, for
    files of another base, for weights in few bits, and for a branch, which no weight can express.
    """
    require(
        not weights or len(weights) == len(files),
        f"{len(weights)} weights were given for {len(files)} adapters; give one --weight for every file",
    )
    field = bundle.flow.field
    require(
        bool(files) or isinstance(backbone_of(field), WithAmount),
        "no adapter was given, and the bundle has none inside; give files of adapters",
    )
    found, single = [], []
    for path, weight in zip(files, weights or [1.0] * len(files), strict=True):
        made, hit = load(field if by is None else bundle.flow.field, path, 1.0 if by else weight)
        field = made if by is None else field
        single.append(merged(made) if by else made)
        inner: Any = backbone_of(made)
        count = len(hit.sites) or len(layers_of(inner.field, inner.settings["layers"]))  # of a delta of Beeline
        found.append({"file": read(path).path.name, "weight": weight, "layers": count})
    if by is not None:
        field = merged_networks(merged(bundle.flow.field), single, by, weights)
    lineage = {
        **bundle.lineage,
        "made_by": "lora merge",
        "parent_weights": bundle.weights,
        "adapters": [{**f, "sha256": sha256(read(p).path)} for f, p in zip(found, files, strict=True)],
    }
    whole = replace(bundle, flow=replace(bundle.flow, field=merged(field).eval()), lineage=lineage)
    return whole, {"adapters": len(files), "layers": sum(f["layers"] for f in found)}
