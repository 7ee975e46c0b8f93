"""Streams that were given in Python and have no description: named while the process lives."""

from __future__ import annotations

from typing import Any

from beeline.core.errors import BeelineError

PREFIX = "python:"
_GIVEN: dict[str, Any] = {}  # name -> stream


def give(name: str, stream: Any) -> str:
    """A path that stands for a stream in this process."""
    _GIVEN[PREFIX + name] = stream
    return PREFIX + name


def is_given(path: str) -> bool:
    """Whether a path stands for a stream."""
    return path.startswith(PREFIX)


def given(path: str) -> Any:
    """The stream of a path; BeelineError in a process that did not give it."""
    if path in _GIVEN:
        return _GIVEN[path]
    raise BeelineError(
        f"the data of this run are {path}, a stream that was given in Python and is not stored; call "
        "bl.train(stream, out=..., resume=True) with the same stream, or name other data"
    )
