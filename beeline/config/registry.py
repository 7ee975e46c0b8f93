"""Components of the user's own, registered under a name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from beeline.config import catalogue
from beeline.config.places import imported
from beeline.core.errors import nearest, require

Target = TypeVar("Target")


@overload
def register(kind: str, name: str | None = None) -> Callable[[Target], Target]: ...
@overload
def register(kind: str, name: str, target: str) -> Any: ...
@overload
def register(kind: str, name: str, target: Target) -> Target: ...
def register(kind: str, name: str | None = None, target: Any = None) -> Any:
    """Give a component a name, so that files and the command line can name it and bundles that hold it can be saved.

    ``kind`` is a kind of the catalogue, such as "solvers"; ``target`` a class, a function that creates a component, a
    constant, or text "package.module:Class".  Without a target it is a decorator, and the name may be left out.
    Returns the target.  The registration lasts as long as the process; a program that loads the file registers first.
    ValueError where the kind is unknown, the name is in use, or the target cannot be imported, described or compared.

    >>> from dataclasses import dataclass
    >>> @register("schedules", "Halving")
    ... @dataclass(frozen=True)
    ... class Halving:
    ...     "Times that halve the distance to the end in every step."
    >>> catalogue.name_of(Halving())
    'schedules.Halving'
    >>> unregister("schedules", "Halving")
    """
    if target is None:
        return lambda found: register(kind, name or found.__name__, found)
    found = imported(target, kind, name) if isinstance(target, str) else target
    _check(kind, str(name), found)
    place = target if isinstance(target, str) else _place(found)
    catalogue.CUSTOM[f"{kind}.{name}"] = found
    catalogue.CATALOGUE[kind][str(name)] = place
    catalogue.forget()
    return found


def unregister(kind: str, name: str) -> None:
    """Remove a registered component; ValueError for one that the package itself has."""
    require(
        f"{kind}.{name}" in catalogue.CUSTOM,
        f"{kind}.{name} was not registered, so it cannot be removed; {nearest(f'{kind}.{name}', catalogue.CUSTOM)}",
    )
    del catalogue.CUSTOM[f"{kind}.{name}"], catalogue.CATALOGUE[kind][name]
    catalogue.forget()


def _check(kind: str, name: str, target: Any) -> None:
    known = catalogue.CATALOGUE
    require(kind in known, f"there is no kind of component {kind!r}; {nearest(kind, known)}")
    require(
        name.isidentifier(),
        f"a component was to be registered as {name!r}, which is no name; give letters, digits and underscores, for "
        "example MySolver",
    )
    taken = next((n for n in known[kind] if catalogue.fold(n) == catalogue.fold(name)), None)
    require(
        taken is None or (f"{kind}.{taken}" in catalogue.CUSTOM and known[kind][taken] == _place(target)),
        f"{kind}.{name} is registered already as {known[kind].get(taken or '', '')}, and a name has one meaning; "
        "register under another name, or call beeline.config.registry.unregister first if it is yours",
    )
    whole = isinstance(target, type) or inspect.isroutine(target)
    present = catalogue.name_of(target) if whole else None  # a constant is named beside its class
    require(
        present is None or present == f"{kind}.{taken}",
        f"{_place(target)} is registered already as {present}, and a component has one name; use that name",
    )
    if not isinstance(target, type):
        return
    frozen = dataclasses.is_dataclass(target) and target.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(
        frozen or inspect.isfunction(inspect.getattr_static(target, "describe", None)),
        f"{target.__name__} is neither a frozen dataclass nor a class with a method describe(), so that a file cannot "
        "hold its settings; decorate it with @dataclass(frozen=True), or define describe(self), which returns the "
        "arguments of its constructor as a dict",
    )


def _place(target: Any) -> str:
    owner = target if isinstance(target, type) or inspect.isroutine(target) else type(target)
    return f"{owner.__module__}:{owner.__qualname__}"
