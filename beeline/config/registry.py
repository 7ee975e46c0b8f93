"""Components of the user's own: registered under a name, or named by their place in a package that the user trusts."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

from beeline.config import catalogue
from beeline.core.errors import BeelineError, nearest, require

Target = TypeVar("Target")

TRUST = "BEELINE_TRUST"
"""The environment variable that names packages whose classes files may name, separated by commas."""

_trusted: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("trusted", default=())


@overload
def register(kind: str, name: str | None = None) -> Callable[[Target], Target]: ...
@overload
def register(kind: str, name: str, target: str) -> Any: ...
@overload
def register(kind: str, name: str, target: Target) -> Target: ...
def register(kind: str, name: str | None = None, target: Any = None) -> Any:
    """Give a component a name, so that files and the command line can name it and bundles that hold it can be saved.

    ``kind`` is a kind of the catalogue, such as "solvers"; ``target`` a class, a function that makes a component, a
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
    found = _imported(target, kind, name) if isinstance(target, str) else target
    _check(kind, str(name), found)
    place = target if isinstance(target, str) else _place(found)
    catalogue.CUSTOM[f"{kind}.{name}"] = found
    catalogue.CATALOGUE[kind][str(name)] = place  # type: ignore[index]
    catalogue.forget()
    return found


def unregister(kind: str, name: str) -> None:
    """Remove a registered component; ValueError for one that the package itself has."""
    require(
        f"{kind}.{name}" in catalogue.CUSTOM,
        f"{kind}.{name} was not registered, so it cannot be removed; {nearest(f'{kind}.{name}', catalogue.CUSTOM)}",
    )
    del catalogue.CUSTOM[f"{kind}.{name}"], catalogue.CATALOGUE[kind][name]  # type: ignore[attr-defined]
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


def _imported(place: str, kind: str, name: str | None) -> Any:
    """The object at "package.module:Class"."""
    module, sign, attribute = place.partition(":")
    require(
        module and sign and attribute.isidentifier(),
        f"{place!r} names no class in a module; write it as package.module:Class",
    )
    try:
        return vars(importlib.import_module(module))[attribute]
    except ImportError as error:
        reason = str(error)
    except KeyError:
        reason = f"{module} has no {attribute}"
    where = f" as {kind}.{name}" if name else ""
    raise BeelineError(
        f"{place!r} was to be used{where}, but cannot be imported ({reason}); check the spelling, and that its folder "
        "is on PYTHONPATH or its package installed"
    )


@contextlib.contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Allow files to name classes of these packages as "package.module:Class" inside this block."""
    require(
        not isinstance(packages, str),
        f"trust={packages!r} is text, but several packages may be trusted; give a tuple: trust=({packages!r},)",
    )
    token = _trusted.set((*_trusted.get(), *packages))
    try:
        yield
    finally:
        _trusted.reset(token)


def placed(name: str) -> Any:
    """The class that a file names as "package.module:Class"; ValueError unless its package is trusted."""
    module = name.partition(":")[0]
    package = module.partition(".")[0]
    variable = [p.strip() for p in os.environ.get(TRUST, "").split(",") if p.strip()]
    require(
        any(module == p or module.startswith(f"{p}.") for p in (*_trusted.get(), *variable)),
        f"{name!r} names code of the package {package!r}, and files run no code that was not allowed; if you trust it, "
        f"load with trust=({package!r},) or set {TRUST}={package}, or register the class under a name",
    )
    return _imported(name, "", None)
