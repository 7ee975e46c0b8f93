"""Training that ends when held-out data say so."""

from __future__ import annotations

from typing import Any

from beeline.core.errors import require
from beeline.core.protocols.training import LRSchedule
from beeline.core.ranges import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the held-out loss of the averaged weights has not improved for a while, and cool down from its best.

    best step b = argmin of the losses; stop after ``patience`` more evaluations; go back to b and cool down from there
    Assumes a held-out loss.  A learning rate that does not depend on the number of steps until it cools down makes the
    whole the run that would have been made with so many steps; with one that never cools down training ends at b.
    Source: Prechelt 1998, "Early stopping - but when?".

    >>> EarlyStopping(patience=3).patience
    3
    """

    patience: int = 5  # evaluations without improvement
    every: int = 200  # steps between two evaluations
    min_delta: float = 1e-4  # share of the loss by which it has to improve

    def __post_init__(self) -> None:
        require(
            self.patience >= 1 and self.every >= 1 and 0 <= self.min_delta < 1,
            f"EarlyStopping got patience={self.patience}, every={self.every}, min_delta={self.min_delta}; "
            "patience and every are counted from 1, min_delta is a share below 1",
        )

    def over(self, seen: dict[str, Any], step: int, loss: float) -> bool:
        """Whether patience is over with ``loss`` at ``step``; ``seen`` remembers the best one."""
        if not seen or loss < seen["loss"] * (1 - self.min_delta):
            seen.update(step=step, loss=loss, stale=0)
        else:
            seen["stale"] += 1
        return bool(seen["stale"] >= self.patience)

    def shorter(self, best: int, steps: int, lr: LRSchedule) -> int:
        """The number of steps, at most ``steps``, of the run whose cooldown begins at the step ``best``."""
        if not lr.branch(steps):
            return best
        return next((total for total in range(best, steps) if lr.branch(total) >= best), steps)
