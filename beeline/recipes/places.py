"""Directories of runs that are made without a name."""

from __future__ import annotations

from pathlib import Path


def free(name: str) -> Path:
    """The first directory of ``runs/name``, ``runs/name-2``, ... that does not exist."""
    return unused(Path("runs") / name)


def unused(path: Path) -> Path:
    """The path, or the first of it with -2, -3, ... that does not exist."""
    names = (path if k == 1 else path.with_name(f"{path.name}-{k}") for k in range(1, 10_000))
    return next(place for place in names if not place.exists())
