"""Classes that files name by their place, "package.module:Class", in packages that the user trusts."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from beeline.core.errors import BeelineError, require

TRUST = "BEELINE_TRUST"
"""The environment variable that names packages whose classes files may name, separated by commas."""

_trusted: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("trusted", default=())


def imported(place: str, kind: str, name: str | None) -> Any:
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
    return imported(name, "", None)
