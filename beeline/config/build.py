"""Conversion between components and the plain data of files and of the command line.

    describe(LogitNormal(0.5))  ->  {"is": "times.LogitNormal", "mean": 0.5, "std": 1.0}   and build back
    change(sampler, {"steps": 8, "schedule": "Shifted(3)"})                                 a new, changed sampler

Only members of the catalogue can be named: no text is evaluated and no path imported.
"""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from beeline.config.catalogue import CATALOGUE, WORDS, Setting, find, makes, member, name_of, settings
from beeline.config.settings import (
    anything,
    at,
    check_names,
    constructing,
    fit,
    free,
    join,
    plain,
    prefixed,
    read,
    shown,
)
from beeline.core.declared import Describing
from beeline.core.errors import BeelineError, nearest, require

LARGEST = 10_000  # largest number of elements of a tensor that is written as a setting


def describe(part: Any) -> Any:
    """Plain data (dict, list, str, int, float, bool, None) from which ``build`` creates an equal component.

    A network is described by its architecture; its weights are not plain data.

    >>> from beeline.times.samplers import LogitNormal
    >>> describe(LogitNormal(0.5))
    {'is': 'times.LogitNormal', 'mean': 0.5, 'std': 1.0}
    """
    return _describe(part, "")


def build(data: Any) -> Any:
    """The component of a description; ValueError names the setting that is unknown, missing or of a wrong type.

    Networks are initialised from torch's global state: build them under ``with rng.ambient():``.

    >>> build({"is": "solvers.RK4"}).order
    4
    """
    plain(data, "")
    return free(data, "")


def parse(text: str, kind: str | None = None) -> Any:
    """The value of text on the command line: a number, true, none, or a component with its settings.

    >>> parse("LogitNormal(mean=0.5)"), parse("1e-3"), parse("schedules.uniform")
    (LogitNormal(mean=0.5, std=1.0), 0.001, Uniform())
    """
    if kind is not None:
        require(kind in CATALOGUE, f"there is no kind of component {kind!r}; {nearest(kind, CATALOGUE)}")
    return free(read(text), "", () if kind is None else (kind,), strict=True)


def change(part: Any, changes: Mapping[str, Any]) -> Any:
    """The part with other settings, named by dotted paths; a text is read as on the command line.

    Works on components, and on plain data that describe one.  A changed network is a new one, with new weights.

    >>> from beeline.sampling.sampler import Sampler
    >>> change(Sampler(), {"steps": "8", "schedule": "Shifted(2)", "schedule.shift": 3}).schedule
    Shifted(shift=3.0)
    """
    return _change(part, changes, "")


def lookup(kind: str, name: str) -> Any:
    """The class, function or constant of a kind, by its short or full name.

    >>> lookup("solvers", "heun").order
    2
    """
    return member(find(name, (kind,)))


def _describe(part: Any, where: str) -> Any:
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, Tensor | np.ndarray | np.generic):
        return _numbers(torch.as_tensor(part), where)
    if isinstance(part, Mapping):
        return {str(key): _describe(value, join(where, str(key))) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_describe(value, join(where, str(i))) for i, value in enumerate(part)]
    if isinstance(part, os.PathLike):
        return os.fspath(part)
    full = name_of(part)
    if full is None:
        raise BeelineError(
            f"{at(where)}{getattr(part, '__qualname__', type(part).__name__)} is not in the catalogue; a file can only "
            "name what every reader of it knows: register it with bl.register(kind, name, ...), or "
            "keep this part in code"
        )
    if not makes(full):
        return {"is": full}
    given = _settings_of(part)
    for name, value in given.items():
        require(
            not isinstance(value, nn.Module) or isinstance(part, nn.Module),
            f"{at(join(where, name))}{full} holds a network, whose weights are not plain data; "
            "keep this part in code, and save the network as a bundle",
        )
    return {"is": full} | {name: _describe(value, join(where, name)) for name, value in given.items()}


def _numbers(tensor: Tensor, where: str) -> Any:
    require(
        tensor.numel() <= LARGEST and not tensor.is_complex(),
        f"{at(where)}a tensor of shape {tuple(tensor.shape)} and {tensor.dtype} is not a setting but data; "
        "keep it in a file of its own and name the file",
    )
    return tensor.tolist()


def _settings_of(part: Any) -> dict[str, Any]:
    """The settings of a component."""
    if isinstance(part, Describing):
        return dict(part.describe())
    kind: Any = type(part)
    return {name: getattr(part, name) for name in settings(kind)}


def _change(part: Any, changes: Mapping[str, Any], where: str) -> Any:
    heads: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        head, _, rest = dotted.partition(".")
        heads.setdefault(head, {})[rest] = value
    if part is None or isinstance(part, bool | int | float | str | Tensor | type) or callable_only(part):
        raise BeelineError(
            f"{where} is {shown(part)}, which has no setting {next(iter(heads))!r} inside; "
            f"set {where or 'it'} itself, to a component with that setting"
        )
    if isinstance(part, list | tuple):
        known: Mapping[str, Setting] = {str(i): anything(str(i)) for i in range(len(part))}
        now: dict[str, Any] = {str(i): item for i, item in enumerate(part)}
        owner = where or "this list"
    elif isinstance(part, Mapping):
        described = "is" in part
        known = settings(member(find(str(part["is"])))) if described else {str(k): anything(str(k)) for k in part}
        now, owner = dict(part), str(part["is"]).rpartition(".")[2] if described else where or "this mapping"
    else:
        kind: Any = type(part)
        known, now, owner = settings(kind), _settings_of(part), kind.__name__
    check_names(heads, known, owner, where)
    new = {}
    for head, inner in heads.items():
        place, value = join(where, head), now.get(head, known[head].default)
        if "" in inner:
            with prefixed(place):
                value = fit(_typed(inner.pop(""), known[head].hint), known[head], place, value)
            value = describe(value) if isinstance(part, Mapping) and "is" in part else value
        if inner:
            value = _change(value, inner, place)
            value = fit(value, known[head], place) if isinstance(value, list | tuple) else value  # its items
        new[head] = value
    if isinstance(part, list | tuple):
        return type(part)((now | new).values())
    if isinstance(part, Mapping):
        return now | new
    with constructing(owner, join(where, next(iter(new))) if len(new) == 1 else where):
        return dataclasses.replace(part, **new) if dataclasses.is_dataclass(kind) else kind(**(now | new))


def callable_only(part: Any) -> bool:
    """Whether a part is a plain function, which has no settings of its own."""
    return isinstance(part, types.FunctionType | types.BuiltinFunctionType)


def _typed(value: Any, hint: Any) -> Any:
    """A text from the command line, read; as it is where the setting holds text itself."""
    if not isinstance(value, str) or hint is str:
        return value
    if str in get_args(hint):
        return None if WORDS.get(value.lower(), value) is None else value
    return read(value)
