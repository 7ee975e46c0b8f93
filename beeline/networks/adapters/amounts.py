"""How much of a delta is used: one number, one for every layer, or one for every time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import ClassVar, Protocol

from beeline.core.errors import require
from beeline.core.ranges import Share, dataclass
from beeline.core.types import Cond

TIME: ContextVar[float | None] = ContextVar("time of the evaluation of an adapted network", default=None)
GIVEN: ContextVar[tuple[Cond] | None] = ContextVar("condition of the evaluation of an adapted network", default=None)


def fits(name: str, end: str) -> bool:
    """Whether the dotted name of a layer ends with whole parts; ``end`` with a dot before it is the whole name."""
    return f".{name}" == end if end.startswith(".") else f".{name}".endswith(f".{end}")


class Amount(Protocol):
    """The share of a delta, by layer and by time; 0 is the layer without it, 1 the whole delta."""

    timed: ClassVar[bool]  # whether it depends on the time

    def of(self, layer: str, t: float) -> float:
        """The amount in a layer at a time; an amount that is not timed ignores ``t``."""
        ...


@dataclass(frozen=True)
class PerLayer(Amount):
    """Amounts by the ends of the names of layers.

    amount = amounts[the longest end that fits the name of the layer], else ``others``

    >>> PerLayer({"qkv": 0.5}).of("block.0.mix.qkv", 0.0), PerLayer({"qkv": 0.5}).of("block.0.mlp.0", 0.0)
    (0.5, 1.0)
    """

    amounts: Mapping[str, float]
    others: float = 1.0
    timed: ClassVar[bool] = False

    def of(self, layer: str, t: float) -> float:
        ends = [end for end in self.amounts if fits(layer, end)]
        return self.amounts[max(ends, key=len)] if ends else self.others


@dataclass(frozen=True)
class Window(Amount):
    """One amount for an interval of times, and another outside of it.

    amount(t) = inside for start <= t <= end, else outside

    >>> Window(0.0, 0.5).of("out", 0.25), Window(0.0, 0.5).of("out", 0.75)
    (1.0, 0.0)
    """

    start: Share = 0.0
    end: Share = 1.0
    inside: float = 1.0
    outside: float = 0.0
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(
            self.start < self.end,
            f"Window got start={self.start} and end={self.end}; times grow from noise at 0 to data at 1: set a smaller "
            "start",
        )

    def of(self, layer: str, t: float) -> float:
        return self.inside if self.start <= t <= self.end else self.outside


PART: ContextVar[str] = ContextVar("part of an evaluation with changes of its own", default="")


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Context manager: changes that are ``Apart`` with this name act inside, in this thread."""
    token = PART.set(name)
    try:
        yield
    finally:
        PART.reset(token)


@dataclass(frozen=True)
class Apart(Amount):
    """A delta that acts in one part of an evaluation alone, such as on the tokens of a hint; it is never merged.

    >>> Apart("edges").of("out", 0.0)
    0.0
    """

    name: str
    timed: ClassVar[bool] = False

    def of(self, layer: str, t: float) -> float:
        return float(PART.get() == self.name)


def amount_of(amount: float | Amount, layer: str) -> float:
    """The amount in a layer now; ValueError for one that depends on the time outside of an adapted network."""
    if isinstance(amount, int | float):
        return amount
    t = TIME.get()
    require(
        t is not None or not amount.timed,
        f"{amount!r} depends on the time, and the layer {layer!r} was used outside of its Adapted network; evaluate "
        "the whole network, or give an amount that is one number",
    )
    return amount.of(layer, 0.0 if t is None else t)
