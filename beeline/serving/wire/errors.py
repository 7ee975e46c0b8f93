"""Errors by their kind."""

from __future__ import annotations

from beeline.core.errors import BeelineError
from beeline.serving.jobs import TooLateError

KINDS: dict[str, tuple[type[BaseException], type[BaseException]]] = {
    "timeout": (TooLateError, TooLateError),
    "request": (ValueError, BeelineError),
    "server": (BaseException, RuntimeError),
}
"""Name of a kind -> the errors that are of it, unless they are of one before it, and what they become."""


def kind_of(error: BaseException) -> str:
    """The kind of an error: a timeout, a fault of the request, or one of the server."""
    return next(name for name, (known, _) in KINDS.items() if isinstance(error, known))


def error_of(kind: str, message: str) -> BaseException:
    """An error of a kind."""
    return KINDS[kind][1](message)
