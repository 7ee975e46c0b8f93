"""The null condition: what stands for no condition, as the network was built for it and as it was learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import traits_of
from beeline.core.errors import nearest, require
from beeline.core.modes import check_values
from beeline.core.types import Cond, leaves, map_cond


def null_like(null: Any, cond: Cond, field: Any = None) -> Cond:
    """The null condition for a batch, checked against what ``field`` was built for.

    None is the null that the network knows: the index after the last class of every label; vectors, which have none of
    their own, stay as they are.  A number fills all labels, or all vectors.  A mapping names the nulls of some
    conditions; the others stay.  A null for one sample is repeated, one for the batch is taken as it is.
    """
    known = traits_of(field).nulls
    if null is None:
        return _network_null(cond, known)
    if isinstance(null, int | float) and not isinstance(null, bool):
        made = _constant_null(null, cond)
    else:
        made = _named_null(null, cond)
    if known is not None:
        _check_known(made, cond, known)
    return made


def learned_null(drop: Any, conditions: Mapping[str, Mapping[str, Any]]) -> Any:
    """The null that a drop teaches a network for the described conditions, as plain data; {} where it teaches none."""
    labels = {name: spec["classes"] for name, spec in conditions.items() if "classes" in spec}
    if not conditions:
        return None
    if drop is None or (drop.probability == 0 and (labels or drop.null is None)):
        return {}
    null = labels if drop.null is None else drop.null
    if isinstance(null, Tensor):
        return null.tolist()
    if isinstance(null, Mapping):
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in null.items()}
    return null


def check_null(drop: Any, conditions: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a null label that is a class, which would lose its own meaning."""
    if drop is None or drop.probability == 0 or drop.null is None:
        return
    for name, spec in conditions.items():
        classes = spec.get("classes")
        null = drop.null.get(name) if isinstance(drop.null, Mapping) else drop.null
        if classes is not None and isinstance(null, int | float):
            require(
                null == classes,
                f"objective.drop.null={null:g} stands for no {name}, but {name}s here are 0 .. {classes - 1} and the "
                f"one after them is none; give null={classes}, or leave it out: the network knows it",
            )


def _network_null(cond: Cond, known: Mapping[str, float | None] | None) -> Cond:
    require(
        known is not None,
        "a null condition was needed, and neither the flow nor its network says what stands for no condition; name it: "
        "null={'label': 10}, or Flow(..., null={'label': 10})",
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
        f"a null condition was needed for {names}; a vector has no null of its own, unlike a label: name the vector "
        "that stands for none, for example null={'age': [0.0]}",
    )


def _constant_null(null: float, cond: Cond) -> Cond:
    found = list(leaves(cond))
    floats = {leaf.is_floating_point() for _, leaf in found}
    require(
        len(floats) <= 1,
        f"the null {null:g} is one number for labels and vectors, {[name for name, _ in found]}; a label's null means "
        "nothing in a vector: name the nulls, for example null={'label': 10}",
    )
    require(
        math.isfinite(null) and (True in floats or float(null).is_integer()),
        f"the null {null} was given for {'labels, which are whole numbers' if False in floats else 'a condition'}; it "
        "stands for no condition in the network's input: give a finite number of the condition's kind",
    )
    return map_cond(lambda leaf: torch.full_like(leaf, null), cond)


def _named_null(null: Any, cond: Cond) -> Cond:
    if isinstance(cond, Mapping):
        require(
            isinstance(null, Mapping),
            f"the null condition is a {type(null).__name__} beside the conditions {sorted(cond)}; name the condition "
            "that it is the null of, for example null={'label': 10}",
        )
        for name in null:
            require(name in cond, f"the null names {name!r}, which is no condition here; {nearest(str(name), cond)}")
        return {name: _named_null(null[name], leaf) if name in null else leaf for name, leaf in cond.items()}
    if cond is None:
        return None
    if isinstance(null, Mapping):
        require(len(null) == 1, f"the null names {sorted(null)} beside one condition without a name; give one null")
        null = next(iter(null.values()))
    if isinstance(null, int | float) and not isinstance(null, bool):
        return _constant_null(null, cond)
    void = torch.as_tensor(null, device=cond.device).to(cond.dtype)
    if void.shape == cond.shape:
        return void.clone()  # never the condition itself, which stands for what is kept
    require(
        void.shape == cond.shape[1:] or (void.shape[:1] == (1,) and void.shape[1:] == cond.shape[1:]),
        f"the null condition has shape {tuple(void.shape)} beside a condition of {tuple(cond.shape)}; give it for the "
        "batch, for one sample, or as one number",
    )
    return void.expand(cond.shape).clone()


def _check_known(made: Cond, cond: Cond, known: Mapping[str, float | None]) -> None:
    """Refuse a null that is not the one the network was built with."""
    if isinstance(made, Tensor):
        if len(known) == 1:
            _check_known({name: made for name in known}, {name: cond for name in known}, known)
        return
    assert isinstance(made, Mapping) and isinstance(cond, Mapping)
    for name, value in known.items():
        leaf, own = made.get(name), cond.get(name)
        if value is not None and isinstance(leaf, Tensor) and leaf is not own:
            check_values((leaf == value).all(), partial(_wrong_null_message, name, leaf, value))


def _wrong_null_message(name: str, leaf: Tensor, value: float) -> str:
    got = float(leaf[leaf != value].flatten()[0])
    return (
        f"the null {got:g} was given for the condition {name!r}, but this network was built with the null {value:g}"
        + ("" if leaf.is_floating_point() else f", and {got:g} is one of its classes")
        + f"; leave the null out, or give {value:g}"
    )
