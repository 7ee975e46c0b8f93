"""The step schedule of a pretrained checkpoint, read from the configuration of its scheduler."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.ranges import Count, dataclass
from beeline.networks.hub.families import family_named
from beeline.networks.hub.imports import diffusers
from beeline.times.schedules import check_interval, check_monotone, interpolate

SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMapEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
"""Classes of diffusers whose noise levels are those of a straight path."""


@dataclass(frozen=True)
class CheckpointSchedule:
    """The times at which the scheduler of a pretrained checkpoint evaluates its network.

    t_i = 1 - sigma_i,  with the noise levels sigma_i of the scheduler of diffusers, and t = 1 at the end
    The whole schedule is that of the scheduler.  On a part of [0, 1] the density of steps is that of the whole.
    Source: the checkpoint's ``scheduler_config.json``.

    >>> CheckpointSchedule("sd3", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 64)(2)  # doctest: +SKIP
    tensor([0.0000, 0.9911, 1.0000])
    """

    family: str  # name of the family, which sets the scheduler as its pipeline does
    scheduler: str  # class of diffusers
    config: Mapping[str, Any] = field(default_factory=dict)  # the scheduler's configuration
    tokens: Count = 4096  # tokens of one sample, on which a resolution-dependent shift depends

    def __post_init__(self) -> None:
        family_named(self.family)
        require(
            self.scheduler in SCHEDULERS,
            f"CheckpointSchedule got scheduler={self.scheduler!r}, whose times are not known; "
            f"{nearest(self.scheduler, SCHEDULERS)}",
        )

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        check_interval(steps, start, end)
        return check_monotone(between(self._times(steps), start, end), self)

    @functools.cached_property
    def _known(self) -> dict[int, list[float]]:
        """Times by number of steps; a scheduler takes longer to make than a step of a small network."""
        return {}

    def _times(self, steps: int) -> Tensor:
        if steps not in self._known:
            self._known[steps] = self._computed(steps).tolist()
        return torch.tensor(self._known[steps], dtype=torch.float64)

    def _computed(self, steps: int) -> Tensor:
        library = diffusers("a schedule of a pretrained checkpoint")
        scheduler = getattr(library, self.scheduler).from_config(dict(self.config))
        family_named(self.family).set_times(scheduler, steps, self.tokens)
        levels = scheduler.sigmas.double()
        times = levels if scheduler.config.get("invert_sigmas", False) else 1 - levels
        return checked(times, steps, self.scheduler)


def checked(times: Tensor, steps: int, scheduler: str) -> Tensor:
    """``times``; raises ValueError if they are not those of ``steps`` steps."""
    require(
        len(times) == steps + 1,
        f"the scheduler {scheduler} gives {len(times) - 1} steps for {steps}; its grid cannot be followed: set another "
        "schedule, such as Shifted(3.0)",
    )
    return times


def between(times: Tensor, start: float, end: float) -> Tensor:
    """The times of a whole run, or as many between ``start`` and ``end`` with the density of the whole."""
    if (start, end) != (0.0, 1.0):
        grid = torch.linspace(0, 1, len(times), dtype=torch.float64)
        inside = times.clone()
        inside[0], inside[-1] = 0.0, 1.0
        low, high = interpolate(inside, grid, torch.tensor([start, end], dtype=torch.float64))
        times = interpolate(grid, inside, low + (high - low) * grid)
        times[0], times[-1] = start, end
    return times.to(torch.get_default_dtype())
