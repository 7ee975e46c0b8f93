"""Errors that users see, and the one way to refuse bad input."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts without torch
    from torch import Tensor


class BeelineError(ValueError):
    """A user's mistake: what was got, why it cannot work, what to do."""


class IntegrationError(BeelineError):
    """A run that could not go on; ``x`` and ``t`` are the last good state and its time."""

    def __init__(self, message: str, x: Tensor, t: float):
        super().__init__(message)
        self.x, self.t = x, t


def require(condition: object, message: str) -> None:
    """Raise BeelineError (a ValueError) with ``message`` unless ``condition`` holds."""
    if not condition:
        raise BeelineError(message)


def extra(module: str, group: str) -> Any:
    """Import an optional library where it is used, or refuse with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BeelineError(
            f"this needs the library {module!r}, which is not installed; it comes with an extra: "
            f"pip install 'beeline[{group}]'"
        ) from error


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, and all of them."""
    known = sorted(names)
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}valid names: {', '.join(known) or 'none'}"
