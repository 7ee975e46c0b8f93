"""Settings of a training."""

from __future__ import annotations

from dataclasses import field, replace

from beeline.core.errors import require
from beeline.core.protocols.training import LRSchedule, Optimizer, Profile
from beeline.core.ranges import dataclass
from beeline.training.compute import Compute
from beeline.training.early_stopping import EarlyStopping
from beeline.training.feed.data_pruning import DataPruning
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant, Cooldown, WarmupConstantCooldown
from beeline.training.optim.optimizers import AdamW


@dataclass(frozen=True)
class Training:
    """Settings of a training: steps, batch, optimizer, learning rate, averages and checkpoints.

    one step: gradient = mean over ``microbatches`` equal parts of a batch of ``batch_size`` data, clipped; optimizer;
    averages.  Microbatch k of step n has the key rng.fork(n, k), whichever process works it.

    >>> Training(steps=10, batch_size=32, microbatches=4).microbatch_size
    8
    """

    steps: int = 2000
    batch_size: int = 128  # data of a step
    microbatches: int = 1  # equal parts of the batch; more of them save memory and are shared among processes
    optimizer: Optimizer = field(default_factory=AdamW)
    lr: LRSchedule | float = field(default_factory=WarmupConstantCooldown)  # a number is a constant
    ema: Profile | tuple[Profile, ...] | None = field(default_factory=EMA)  # the first one is given back
    clip: float | None = 1.0  # largest gradient norm; None is no limit
    checkpoint_every: int = 500  # steps between checkpoints
    checkpoint_keep: int = 3  # checkpoints that stay on disk
    snapshot_every: int = 0  # steps between stored averages, for averages of any length afterwards; 0 is none
    watch_every: int = 50  # steps between update and parameter norms
    max_recoveries: int = (
        0  # how often a run that diverges goes back to its last checkpoint, with half the learning rate
    )
    workers: int = 0  # processes that prepare microbatches ahead; 0 prepares them when they are needed
    data_pruning: DataPruning | None = None  # leave easy data out by chance
    early_stopping: EarlyStopping | None = None  # end before ``steps`` when the held-out loss stops falling
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if isinstance(self.ema, list):
            object.__setattr__(self, "ema", tuple(self.ema))
        for name in ("steps", "microbatches", "batch_size", "checkpoint_every", "checkpoint_keep", "watch_every"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 1,
                f"training.{name} is {value!r}; it is a count: give a whole number from 1",
            )
        for name, most in (("batch_size", 2**31), ("workers", 1024)):
            require(
                getattr(self, name) <= most,
                f"training.{name} is {getattr(self, name)}, more than any machine holds; give at most {most}",
            )
        require(
            self.ema is None or self.profiles,
            "training.ema is an empty list; give one average or several, or none",
        )
        for name in ("snapshot_every", "max_recoveries", "workers"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and not isinstance(value, bool) and value >= 0,
                f"training.{name} is {value!r}; it is a count, and 0 is none: give a whole number from 0",
            )
        require(
            self.batch_size % self.microbatches == 0,
            f"training.batch_size is {self.batch_size}, which does not divide into {self.microbatches} equal "
            f"microbatches; set it to a multiple of {self.microbatches}",
        )
        require(
            self.clip is None or self.clip > 0,
            f"training.clip is {self.clip}; it is the largest gradient norm: give a number above 0, or none",
        )
        require(
            not self.workers or self.data_pruning is None,
            f"training.workers={self.workers} prepare microbatches ahead, but what training.data_pruning leaves out is "
            "known only when the step before is done; set training.workers=0, or training.data_pruning=none",
        )
        peak, name = self.lr_schedule.peak, type(self.optimizer).__name__
        require(
            peak >= 0.1 or not self.optimizer.lr_free,
            f"{name} finds its own learning rate and multiplies it by training.lr, whose peak is {peak:g}; learning "
            "would stand still: set training.lr to Constant(1.0) or WarmupConstantCooldown(1.0)",
        )
        require(
            self.ema is None or not self.optimizer.averages,
            f"{name} averages its weights itself, so a second average beside it would lag behind twice; "
            "set training.ema=none",
        )

    @property
    def microbatch_size(self) -> int:
        """Data of a microbatch."""
        return self.batch_size // self.microbatches

    @property
    def lr_schedule(self) -> LRSchedule:
        """The learning rate as a schedule."""
        return Constant(float(self.lr)) if isinstance(self.lr, int | float) else self.lr

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The averages to keep, as a tuple."""
        return () if self.ema is None else self.ema if isinstance(self.ema, tuple) else (self.ema,)


def branched(training: Training, start: int, length: int) -> Training:
    """The training that leaves another one after ``start`` steps and cools down for ``length`` more.

    Take it up with ``fit(..., resume=the checkpoint of that step, fork=True)``.
    """
    require(length >= 1, f"a cooldown of {length} steps was asked for; give a whole number from 1")
    return replace(training, steps=start + length, lr=Cooldown(training.lr_schedule, start, planned=training.steps))
