"""A budget of a compression, and the methods that are tried for it."""

from __future__ import annotations

from collections.abc import Mapping

from beeline.core.errors import nearest, require
from beeline.core.ranges import Share, dataclass

ALTERNATIVES = (
    "int8", "GPTQ(6)", "GPTQ(5)", "GPTQ(4)", "SVDQuant(3)", "GPTQ(3)", "GPTQ(2)", "SmoothQuant", "LowRank(0.5)",
    "LowRank(0.25)",
)  # fmt: skip
"""What is tried where no method is named."""


@dataclass(frozen=True)
class Budget:
    """Shares of the bytes and of the seconds of an evaluation of the first bundle; None is without a limit."""

    size: Share | None = None
    latency: Share | None = None

    def fits_size(self, share: float) -> bool:
        """Whether a share of the bytes is within."""
        return self.size is None or share <= self.size

    def fits_latency(self, share: float) -> bool:
        """Whether a share of the seconds is within."""
        return self.latency is None or share <= self.latency

    def check_size(self, shares: Mapping[str, float]) -> None:
        """Raise ValueError if no share of bytes is within."""
        self._check("size", self.size, shares, "more methods, such as GPTQ(2) or LowRank(0.1)")

    def check_latency(self, shares: Mapping[str, float]) -> None:
        """Raise ValueError if no share of seconds is within."""
        self._check("latency", self.latency, shares, "more methods, such as Narrow(0.25) or Shallow(2)")

    def _check(self, what: str, limit: float | None, shares: Mapping[str, float], more: str) -> None:
        if limit is None:
            return
        name = min(shares, key=lambda name: shares[name])
        require(
            shares[name] <= limit,
            f"the budget is {what}={limit:g}, and no method of {', '.join(shares)} meets it; the nearest is {name} "
            f"with {what}={shares[name]:.3f}: give that as --budget, or {more}",
        )


def budget_of(text: str) -> Budget:
    """The budget of a text such as size=0.25 or size=0.25,latency=0.5; raises ValueError for another text."""
    found: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        require(
            key in LIMITS,
            f"--budget was given {part!r}; {nearest(key, LIMITS)}: give size=0.25, latency=0.5, or both with a comma "
            "between them",
        )
        try:
            found[key] = float(value)
        except ValueError:
            require(False, f"--budget was given {part!r}; its value is a share above 0 and up to 1: give {key}=0.25")
    return Budget(**found)


LIMITS = ("size", "latency")
