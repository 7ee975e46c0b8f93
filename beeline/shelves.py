"""The public namespaces (``bl.paths``, ``bl.solvers``, ...): shelves of the catalogue, which stays the only list."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from beeline.config.catalogue import CATALOGUE, member
from beeline.core.types import nearest


class Namespace(ModuleType):
    """The components of some kinds as attributes, imported when they are asked for.

    >>> Namespace("solvers").RK4.order
    4
    """

    def __init__(self, name: str, *more: str):
        super().__init__(f"beeline.{name}", f"The {name} of the catalogue.")
        self.__dict__["_places"] = {n: f"{kind}.{n}" for kind in (*more, name) for n in CATALOGUE[kind]}

    def __getattr__(self, name: str) -> Any:
        places: dict[str, str] = self.__dict__["_places"]
        if name not in places:
            raise AttributeError(f"{self.__name__} has no {name!r}; {nearest(name, places)}")
        found = member(places[name])
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted(self.__dict__["_places"])
