"""Training that ends when held-out data say so."""

from __future__ import annotations

from typing import Any

from beeline.core.protocols.training import Rate
from beeline.core.ranges import dataclass
from beeline.core.types import require


@dataclass(frozen=True)
class Patience:
    """Stop when the held-out loss of the averaged weights has not improved for a while, and cool down from its best.

    best step b = argmin of the looks; stop after ``looks`` more of them; then go back to b and cool down from there
    Assumes a held-out loss.  A rate that does not depend on the number of steps until it cools down makes the whole
    the run that would have been made with so many steps; with a rate that never cools down training ends at b.
    Source: Prechelt 1998, "Early stopping - but when?".

    >>> Patience(looks=3).looks
    3
    """

    looks: int = 5  # without improvement
    every: int = 200  # steps between two looks
    least: float = 1e-4  # share of the loss by which it has to improve

    def __post_init__(self) -> None:
        require(
            self.looks >= 1 and self.every >= 1 and 0 <= self.least < 1,
            f"Patience got looks={self.looks}, every={self.every}, least={self.least}; looks and the steps between two "
            "are counted from 1, least is a share below 1",
        )

    def over(self, seen: dict[str, Any], step: int, loss: float) -> bool:
        """Whether patience is over with ``loss`` at ``step``; ``seen`` remembers the best one."""
        if not seen or loss < seen["loss"] * (1 - self.least):
            seen.update(step=step, loss=loss, stale=0)
        else:
            seen["stale"] += 1
        return bool(seen["stale"] >= self.looks)

    def shorter(self, best: int, steps: int, rate: Rate) -> int:
        """The number of steps, at most ``steps``, of the run whose cooldown begins at the step ``best``."""
        begins = getattr(rate, "begins", None)
        if not callable(begins):
            return best
        return next((total for total in range(best, steps) if begins(total) >= best), steps)
