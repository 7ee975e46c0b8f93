"""The checkpoint from which a run continues that is made longer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beeline.core.errors import BeelineError
from beeline.core.protocols.training import LRSchedule
from beeline.training import checkpoint


class Start(NamedTuple):
    """A checkpoint, and whether the longer run from there is identical to an uninterrupted one."""

    path: Path
    exact: bool

    @property
    def step(self) -> int:
        return checkpoint.number(self.path)


def planned(state: Mapping[str, Any]) -> int:
    """The number of steps of the run of a checkpoint, which early stopping may have reduced."""
    return int(state["notes"].get("steps", state["settings"]["training"]["steps"]))


def same_lr(lr: LRSchedule, step: int, old: int, new: int) -> bool:
    """Whether runs of ``old`` and of ``new`` steps have the same learning rates in their first ``step`` steps."""
    return all(lr(n, old) == lr(n, new) for n in range(step))


def start(root: Path, lr: LRSchedule, steps: int) -> Start:
    """The newest checkpoint under ``root`` up to which a run of ``steps`` steps has the learning rates of the present.

    Where every checkpoint is later, as with a schedule that falls over the whole run, it is the newest of all, from
    which the schedule of the longer run continues: the learning rate jumps up to it (a warm restart).
    """
    latest = checkpoint.newest(root, lambda text: None)
    old = planned(checkpoint.state(latest))
    try:
        found = checkpoint.newest(root, lambda text: None, lambda step: same_lr(lr, step, old, steps))
    except BeelineError:
        found = latest
    return Start(found, same_lr(lr, checkpoint.number(found), old, steps))
