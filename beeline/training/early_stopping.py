"""Early stopping by the held-out loss."""

from __future__ import annotations

from typing import Any

from beeline.core.errors import require
from beeline.core.protocols.training import LRSchedule
from beeline.core.ranges import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the held-out loss of the averaged weights stops improving, and cool down from the best step.

    best step b = argmin of the losses; stop after ``patience`` evaluations without improvement; return to b, cool down
    With patience=None nothing is stopped, and the run ends with the weights of the best step, if that is not the last:
    for losses that fall and rise again, such as those of score games.
    Assumes a held-out loss.  With a learning-rate schedule that ends in a cooldown, the result is identical to an
    uninterrupted run of that length; with a schedule without cooldown, training ends at b.
    Source: Prechelt 1998, "Early stopping - but when?".

    >>> EarlyStopping(patience=3).patience
    3
    """

    patience: int | None = 5  # evaluations without improvement before training stops; None never stops
    every: int = 200  # steps between two evaluations
    min_delta: float = 1e-4  # smallest relative decrease of the loss that counts as an improvement

    def __post_init__(self) -> None:
        require(
            (self.patience is None or self.patience >= 1) and self.every >= 1 and 0 <= self.min_delta < 1,
            f"EarlyStopping got patience={self.patience}, every={self.every}, min_delta={self.min_delta}; "
            "patience and every have to be at least 1, and 0 <= min_delta < 1",
        )

    def update(self, state: dict[str, Any], step: int, loss: float) -> bool:
        """Record ``loss`` at ``step`` in ``state``, which holds the best step; whether training should stop."""
        if not state or loss < state["loss"] * (1 - self.min_delta):
            state.update(step=step, loss=loss, stale=0)
        else:
            state["stale"] += 1
        return self.patience is not None and bool(state["stale"] >= self.patience)

    def shortened(self, best: int, steps: int, lr: LRSchedule) -> int:
        """The number of steps, at most ``steps``, of a run whose cooldown starts at step ``best``."""
        if not lr.branch(steps):
            return best
        return next((total for total in range(best, steps) if lr.branch(total) >= best), steps)
