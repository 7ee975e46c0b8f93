"""Null conditions for classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import nulls_of_labels, traits_of
from beeline.core.errors import nearest, require
from beeline.core.modes import check_values
from beeline.core.types import Cond, leaves, map_cond


def null_like(null: Any, cond: Cond, field: Any = None) -> Cond:
    """The null condition for a batch with the condition ``cond``, checked against the nulls declared by ``field``.

    None is the null of the network: the index after the last class for every label; vectors, which have no null, are
    unchanged.  A number is used for all labels or all vectors.  A mapping gives the nulls of some conditions; the
    others are unchanged.  A null for one sample is repeated.  Raises ValueError for a null that does not fit.
    """
    known = traits_of(field).nulls
    if null is None:
        return _network_null(cond, known)
    if isinstance(null, int | float) and not isinstance(null, bool):
        result = _constant_null(null, cond)
    else:
        result = _named_null(null, cond)
    if known is not None:
        _check_known(result, cond, known)
    return result


def learned_null(drop: Any, conditions: Mapping[str, Mapping[str, Any]]) -> Any:
    """The null that condition dropout trains for the described conditions, as plain data; {} without dropout."""
    known = {name: null for name, null in nulls_of_labels(conditions).items() if null is not None}
    if not conditions:
        return None
    if drop is None or (drop.probability == 0 and (known or drop.null is None)):
        return {}
    null = known if drop.null is None else drop.null
    if isinstance(null, Tensor):
        return null.tolist()
    if isinstance(null, Mapping):
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in null.items()}
    return null


def check_null(drop: Any, conditions: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for a null label that is also a class."""
    if drop is None or drop.probability == 0 or drop.null is None:
        return
    for name, spec in conditions.items():
        classes = spec.get("classes")
        null = drop.null.get(name) if isinstance(drop.null, Mapping) else drop.null
        if classes is not None and isinstance(null, int | float):
            require(
                null == classes,
                f"objective.drop.null={null:g} is not the null of the condition {name!r}, whose classes are "
                f"0 .. {classes - 1}; the null is the index after them: set null={classes}, or omit it",
            )


def _network_null(cond: Cond, known: Mapping[str, float | None] | None) -> Cond:
    require(
        known is not None,
        "guidance needs a null condition, and neither the flow nor its network declares one; pass null={'label': 10}, "
        "or use Flow(..., null={'label': 10})",
    )
    assert known is not None
    if isinstance(cond, Tensor):
        values = list(known.values())
        value = values[0] if len(values) == 1 else None
        _require_null([value], list(known))
        return torch.full_like(cond, value)  # type: ignore[arg-type]
    if not isinstance(cond, Mapping):
        return cond
    _require_null([known.get(name) for name in cond], list(cond))
    return {name: _fill_leaf(leaf, known.get(name)) for name, leaf in cond.items()}


def _fill_leaf(leaf: Cond, value: float | None) -> Cond:
    return torch.full_like(leaf, value) if isinstance(leaf, Tensor) and value is not None else leaf


def _require_null(values: list[float | None], names: list[str]) -> None:
    require(
        any(value is not None for value in values),
        f"guidance needs a null condition for {names}; vectors have no default null, unlike labels: pass the vector "
        "that was used in condition dropout, for example null={'age': [0.0]}",
    )


def _constant_null(null: float, cond: Cond) -> Cond:
    found = list(leaves(cond))
    floats = {leaf.is_floating_point() for _, leaf in found}
    require(
        len(floats) <= 1,
        f"the null {null:g} is one number for labels and vectors, {[name for name, _ in found]}; their nulls differ: "
        "pass them by name, for example null={'label': 10}",
    )
    require(
        math.isfinite(null) and (True in floats or float(null).is_integer()),
        f"the null is {null}, but the condition consists of {'integers' if False in floats else 'finite numbers'}; it "
        "replaces the condition in the network's input: pass a finite number of the same kind",
    )
    return map_cond(lambda leaf: torch.full_like(leaf, null), cond)


def _named_null(null: Any, cond: Cond) -> Cond:
    if isinstance(cond, Mapping):
        require(
            isinstance(null, Mapping),
            f"the null condition is a {type(null).__name__} for the conditions {sorted(cond)}; its condition is "
            "ambiguous: pass it by name, for example null={'label': 10}",
        )
        for name in null:
            require(name in cond, f"the null has the name {name!r}, which is no condition; {nearest(str(name), cond)}")
        return {name: _named_null(null[name], leaf) if name in null else leaf for name, leaf in cond.items()}
    if cond is None:
        return None
    if isinstance(null, Mapping):
        require(
            len(null) == 1,
            f"the null has the names {sorted(null)} for a single condition without a name; pass one null",
        )
        null = next(iter(null.values()))
    if isinstance(null, int | float) and not isinstance(null, bool):
        return _constant_null(null, cond)
    void = torch.as_tensor(null, device=cond.device).to(cond.dtype)
    if void.shape == cond.shape:
        return void.clone()  # never the condition itself, which marks unchanged leaves
    require(
        void.shape == cond.shape[1:] or (void.shape[:1] == (1,) and void.shape[1:] == cond.shape[1:]),
        f"the null condition has shape {tuple(void.shape)} for a condition of shape {tuple(cond.shape)}; pass it for "
        "the batch, for one sample, or as one number",
    )
    return void.expand(cond.shape).clone()


def _check_known(result: Cond, cond: Cond, known: Mapping[str, float | None]) -> None:
    """Raise ValueError for a null that differs from that of the network."""
    if isinstance(result, Tensor):
        if len(known) == 1:
            _check_known({name: result for name in known}, {name: cond for name in known}, known)
        return
    assert isinstance(result, Mapping) and isinstance(cond, Mapping)
    for name, value in known.items():
        leaf, own = result.get(name), cond.get(name)
        if value is not None and isinstance(leaf, Tensor) and leaf is not own:
            check_values((leaf == value).all(), partial(_wrong_null_message, name, leaf, value))


def _wrong_null_message(name: str, leaf: Tensor, value: float) -> str:
    got = float(leaf[leaf != value].flatten()[0])
    return (
        f"the null of the condition {name!r} is {got:g}, but this network was built with the null {value:g}"
        + ("" if leaf.is_floating_point() else f", and {got:g} is one of its classes")
        + f"; omit the null, or pass {value:g}"
    )
