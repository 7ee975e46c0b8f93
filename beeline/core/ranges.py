"""The range of a number: what a setting of a component may hold, written in its annotation.

``dataclass`` is that of the standard library, with a check of every number at construction.  A bare float has to be
finite and a bare int whole; neither may be a bool.  Narrower ranges are types:

>>> @dataclass(frozen=True)
... class Steps:
...     count: Count = 4  # from 1
...     rate: Annotated[float, Range(above=0.0, below=0.5)] = 0.1
>>> Steps(count=0)
Traceback (most recent call last):
    ...
beeline.core.errors.BeelineError: Steps got count=0, which is no whole number from 1; give one, such as the default 4
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from beeline.core.errors import BeelineError, require

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):
        """``dataclasses.dataclass``, whose objects refuse numbers outside the ranges of their annotations."""
        if cls is None:
            return functools.partial(dataclass, **options)
        after = getattr(cls, "__post_init__", None)

        def checked(self, *args):
            check(self, cls)
            if after is not None:
                after(self, *args)

        cls.__post_init__ = checked
        return dataclasses.dataclass(cls, **options)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers between two bounds.  ``least`` and ``most`` belong to the range, ``above`` and ``below`` do not.

    ``inf`` says whether infinity is allowed, where it has a meaning ("never").

    >>> 1.0 in Range(least=0.0, most=1.0), 0 in Range(above=0), float("nan") in Range()
    (True, False, False)
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    inf: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            (math.isfinite(value) or (self.inf and value == math.inf))
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = (("from", self.least), ("above", self.above), ("up to", self.most), ("below", self.below))
        return " ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


Count: TypeAlias = Annotated[int, Range(least=1)]
Whole: TypeAlias = Annotated[int, Range(least=0)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
NonNegative: TypeAlias = Annotated[float, Range(least=0)]
Share: TypeAlias = Annotated[float, Range(least=0, most=1)]
Inside: TypeAlias = Annotated[float, Range(above=0, below=1)]
Edge: TypeAlias = Annotated[float, Range(above=0, below=0.5)]  # a distance kept from both ends of [0, 1]
Early: TypeAlias = Annotated[float, Range(least=0, below=1)]  # a time before t = 1


def check(part: Any, cls: type) -> None:
    """Refuse numbers of ``part`` that the annotations of ``cls``, its class or a base, do not allow."""
    for name, allowed in _numbers(cls):
        value = getattr(part, name)
        reason = allowed(value)
        if reason:
            default = cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]
            usual = f", such as the default {default!r}" if isinstance(default, int | float) else ""
            raise BeelineError(f"{type(part).__name__} got {name}={value!r}, which is no {reason}; give one{usual}")


@functools.cache
def _numbers(cls: type) -> Sequence[tuple[str, Callable[[Any], str]]]:
    """The fields of a class that hold numbers, each with its check."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = ((f.name, _check(hints[f.name])) for f in dataclasses.fields(cls) if f.init)
    return [(name, allowed) for name, allowed in found if allowed]


def _check(hint: Any) -> Callable[[Any], str] | None:
    """A function that says why a value does not fit a hint ("" if it fits); None for hints without numbers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float):
        return functools.partial(_number, hint, Range())
    if origin is Annotated and args[0] in (int, float):
        return functools.partial(_number, args[0], next(a for a in args[1:] if isinstance(a, Range)))
    if origin in (typing.Union, types.UnionType) and bool not in args:
        arms = [arm for arm in map(_check, args) if arm is not None]
        others = len(arms) < len(args) - (type(None) in args)
        return functools.partial(_any, arms, others, type(None) in args) if arms else None
    if origin is tuple:
        kinds = [_check(arg) for arg in args if arg is not Ellipsis]
        known = [kind for kind in kinds if kind is not None]
        return functools.partial(_each, known) if known and len(known) == len(kinds) else None
    return None


def _number(kind: type, allowed: Range, value: Any) -> str:
    """A number of one kind."""
    fits = isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    if fits and value in allowed:
        return ""
    return f"{'whole' if kind is int else 'finite'} number {allowed}".rstrip()


def _any(arms: Sequence[Callable[[Any], str]], others: bool, none: bool, value: Any) -> str:
    """A number of one of several kinds, or a value that is no number where ``others`` or ``none`` allow it."""
    if (none and value is None) or (others and not isinstance(value, numbers.Real)):
        return ""
    reasons = [arm(value) for arm in arms]
    return "" if "" in reasons else " and no ".join(reasons)


def _each(kinds: Sequence[Callable[[Any], str]], value: Any) -> str:
    """A tuple of numbers."""
    if not isinstance(value, tuple | list):
        return ""
    for at, one in enumerate(value):
        reason = kinds[min(at, len(kinds) - 1)](one)
        if reason:
            return f"tuple of numbers that fit: entry {at} has to be a {reason}"
    return ""


def check_window(whose: str, window: tuple[float, float]) -> None:
    """Raise ValueError for a window (low, high) that is no interval of times.

    >>> check_window("Guide", (0.2, 0.8))
    """
    low, high = window
    require(
        0 <= low <= high <= 1,
        f"{whose} got window={window}, which is no interval of times: set (low, high) with 0 <= low <= high <= 1",
    )
