"""Training settings."""

from __future__ import annotations

from dataclasses import field, replace

from beeline.core.declared import check_members
from beeline.core.errors import require
from beeline.core.protocols.training import LRSchedule, Optimizer, Profile
from beeline.core.ranges import Count, Whole, dataclass
from beeline.training.compute import Compute
from beeline.training.early_stopping import EarlyStopping
from beeline.training.feed.data_pruning import DataPruning
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant, Cooldown, WarmupConstantCooldown
from beeline.training.optim.optimizers import AdamW

_INHERIT = "inherit beeline.training.optim."


@dataclass(frozen=True)
class Training:
    """Training settings: steps, batch size, optimizer, learning rate, averages and checkpoints.

    one step: gradient = mean over ``microbatches`` equal parts of a batch of ``batch_size`` data, clipped; optimizer
    step; update of the averages.  Microbatch k of step n has the random key rng.fork(n, k) on any process.

    >>> Training(steps=10, batch_size=32, microbatches=4).microbatch_size
    8
    """

    steps: Count = 2000
    batch_size: Count = 128  # data per step
    microbatches: Count = 1  # equal parts of the batch; more of them need less memory, and processes share them
    optimizer: Optimizer = field(default_factory=AdamW)
    lr: LRSchedule | float = field(default_factory=WarmupConstantCooldown)  # a number is a constant learning rate
    ema: Profile | tuple[Profile, ...] | None = field(default_factory=EMA)  # fit returns the first average
    clip: float | None = 1.0  # maximal gradient norm; None does not clip
    checkpoint_every: Count = 500  # steps between checkpoints
    checkpoint_keep: Count = 3  # number of checkpoints on disk
    snapshot_every: Whole = 0  # steps between stored averages, for post-hoc EMA; 0 stores none
    watch_every: Count = 50  # steps between update and parameter norms in the log
    max_recoveries: Whole = 0  # restarts from the last checkpoint after divergence, each with half the learning rate
    workers: Whole = 0  # processes that prefetch microbatches; 0 prepares them in the main process
    data_pruning: DataPruning | None = None  # skip easy data at random
    early_stopping: EarlyStopping | None = None  # stop when the held-out loss stops improving
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if isinstance(self.ema, list):
            object.__setattr__(self, "ema", tuple(self.ema))
        for name, value, most in (("batch_size", self.batch_size, 2**31), ("workers", self.workers, 1024)):
            require(value <= most, f"training.{name} is {value}, which is too large; give at most {most}")
        require(self.ema is None or self.profiles, "training.ema is an empty list; give one or more averages, or none")
        require(
            self.batch_size % self.microbatches == 0,
            f"training.batch_size is {self.batch_size}, which cannot be divided into {self.microbatches} equal "
            f"microbatches; set it to a multiple of {self.microbatches}",
        )
        require(
            self.clip is None or self.clip > 0,
            f"training.clip is {self.clip}, but the maximal gradient norm has to be above 0; give such a number, or "
            "none",
        )
        require(
            not self.workers or self.data_pruning is None,
            f"training.workers={self.workers} prefetch microbatches, but training.data_pruning chooses the data of a "
            "step after the previous one; set training.workers=0, or training.data_pruning=none",
        )
        check_members(self.optimizer, Optimizer, f"training.optimizer: {_INHERIT}optimizers.OptimizerBase")
        check_members(
            self.lr_schedule, LRSchedule, f"training.lr: {_INHERIT}learning_rate.LRScheduleBase, or give a number"
        )
        for profile in self.profiles:
            check_members(profile, Profile, "training.ema: give a profile of 'beeline list averages', or define decay")
        peak, name = self.lr_schedule.peak, type(self.optimizer).__name__
        require(
            peak >= 0.1 or not self.optimizer.lr_free,
            f"{name} estimates its learning rate and multiplies it by training.lr, whose peak is {peak:g}, so the "
            "weights would hardly change; set training.lr to 1.0 or WarmupConstantCooldown(1.0)",
        )
        require(
            self.ema is None or not self.optimizer.averages,
            f"{name} averages its weights itself, so training.ema would average them twice; set training.ema=none",
        )

    @property
    def microbatch_size(self) -> int:
        """Number of data in a microbatch."""
        return self.batch_size // self.microbatches

    @property
    def lr_schedule(self) -> LRSchedule:
        """The learning rate as a schedule."""
        return Constant(float(self.lr)) if isinstance(self.lr, int | float) else self.lr

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The averages as a tuple."""
        return () if self.ema is None else self.ema if isinstance(self.ema, tuple) else (self.ema,)


def branched(training: Training, start: int, length: int) -> Training:
    """Settings of a run that branches off ``training`` after ``start`` steps and cools down over ``length`` steps.

    Run it with ``fit(..., resume=<checkpoint of that step>, fork=True)``.
    """
    require(length >= 1, f"the cooldown has {length} steps, but at least 1 is needed; give a whole number of 1 or more")
    return replace(training, steps=start + length, lr=Cooldown(training.lr_schedule, start, planned=training.steps))
