"""Lazy attributes of the package and its folders: nothing is imported before it is used."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from beeline.core.errors import nearest


def lazy(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: its folders, and the names that it imports under TYPE_CHECKING."""
    here, file = sys.modules[module], Path(str(sys.modules[module].__file__))
    source = ast.parse(file.read_text(encoding="utf-8"))
    folders = {path.parent.name for path in file.parent.glob("*/__init__.py")}
    places = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("beeline.")
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name in folders:
            return importlib.import_module(f"{module}.{name}")
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}; {nearest(name, {*places, *folders})}")
        home, original = places[name]
        found = getattr(importlib.import_module(str(home)), original)
        setattr(here, name, found)
        return found

    return get, lambda: sorted({*vars(here), *places, *folders})


class Namespace(ModuleType):
    """The components of some kinds of the catalogue as attributes, imported on first use.

    >>> Namespace("beeline.solvers", "solvers").RK4.order
    4
    """

    def __init__(self, name: str, *kinds: str):
        super().__init__(name, f"Components: {', '.join(kinds)}.")
        self.__dict__["_get"], self.__dict__["_names"] = members(name, *kinds)

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__["_get"](name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        names: list[str] = self.__dict__["_names"]()
        return names


def members(module: str, *kinds: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a folder: the components of ``kinds``, the last of which wins."""

    def places() -> dict[str, str]:
        catalogue = importlib.import_module("beeline.config.catalogue")
        return {name: f"{kind}.{name}" for kind in kinds for name in catalogue.CATALOGUE[kind]}

    def get(name: str) -> Any:
        known = places()
        if name not in known:
            raise AttributeError(f"{module} has no {name!r}; {nearest(name, known)}")
        return importlib.import_module("beeline.config.catalogue").member(known[name])

    return get, lambda: sorted(places())
