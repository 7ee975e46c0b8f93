"""Settings of a training."""

from __future__ import annotations

from dataclasses import field, replace

from beeline.core.protocols.training import Optimiser, Profile, Rate
from beeline.core.ranges import dataclass
from beeline.core.types import require
from beeline.training.compute import Compute
from beeline.training.early_stopping import Patience
from beeline.training.feed.data_pruning import Pruning
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Cooldown, WarmupConstantCooldown
from beeline.training.optim.optimizers import AdamW


@dataclass(frozen=True)
class Training:
    """How long, in what portions and with what steps a network learns.

    one step: gradient = mean over ``lots`` lots of ``lot`` data each, clipped; optimiser; averages
    Assumes nothing of the objective.  Lot k of step n has the key rng.fork(n, k), whoever works it.
    Source: none.

    >>> Training(steps=10, lot=32).batch
    32
    """

    steps: int = 2000
    lots: int = 1  # portions of a step; more of them save memory and are shared among processes
    lot: int = 128  # data in a portion
    optimiser: Optimiser = field(default_factory=AdamW)
    rate: Rate = field(default_factory=WarmupConstantCooldown)
    ema: Profile | tuple[Profile, ...] | None = field(default_factory=EMA)  # the first one is given back
    clip: float | None = 1.0  # largest gradient norm; None is no limit
    keep_every: int = 500  # steps between checkpoints
    keep_last: int = 3  # checkpoints that stay on disk
    snapshot_every: int = 0  # steps between stored averages, for averages of any length afterwards; 0 is none
    watch_every: int = 50  # steps between update and parameter norms
    retreat: int = 0  # how often a run that diverges goes back to its last checkpoint, with half the rate
    workers: int = 0  # processes that prepare lots ahead; 0 prepares them when they are needed
    prune: Pruning | None = None  # leave easy data out by chance
    patience: Patience | None = None  # end before ``steps`` when the held-out loss stops falling
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if isinstance(self.ema, list):
            object.__setattr__(self, "ema", tuple(self.ema))
        for name in ("steps", "lots", "lot", "keep_every", "keep_last", "watch_every"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"training.{name} is {value!r}; it is a count: give a whole number from 1",
            )
        for name in ("snapshot_every", "retreat", "workers"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 0,
                f"training.{name} is {value!r}; it is a count, and 0 is none: give a whole number from 0",
            )
        require(
            self.clip is None or self.clip > 0,
            f"training.clip is {self.clip}; it is the largest gradient norm: give a number above 0, or none",
        )
        require(
            not self.workers or self.prune is None,
            f"training.workers={self.workers} prepare lots ahead, but what training.prune leaves out is known only "
            "when the step before is done; set training.workers=0, or training.prune=none",
        )
        peak, name = getattr(self.rate, "peak", 1.0), type(self.optimiser).__name__
        require(
            peak >= 0.1 or not getattr(self.optimiser, "rate_free", False),
            f"{name} finds its own rate and multiplies it by training.rate, whose peak is {peak:g}; learning would "
            "stand still: set training.rate to Constant(1.0) or WarmupConstantCooldown(1.0)",
        )
        require(
            self.ema is None or not getattr(self.optimiser, "averages", False),
            f"{name} averages its weights itself, so a second average beside it would lag behind twice; "
            "set training.ema=none",
        )

    @property
    def batch(self) -> int:
        """Data in one step."""
        return self.lots * self.lot

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The averages to keep, as a tuple."""
        return () if self.ema is None else self.ema if isinstance(self.ema, tuple) else (self.ema,)


def branched(training: Training, start: int, length: int) -> Training:
    """The training that leaves another one after ``start`` steps and cools down for ``length`` more.

    Take it up with ``fit(..., resume=the checkpoint of that step, fork=True)``.
    """
    require(length >= 1, f"a cooldown of {length} steps was asked for; give a whole number from 1")
    return replace(training, steps=start + length, rate=Cooldown(training.rate, start, planned=training.steps))
