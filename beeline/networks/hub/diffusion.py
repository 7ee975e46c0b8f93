"""Pretrained diffusion networks with discrete times as velocity fields on a path that turns noise into data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import nearest, require
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, expand_time
from beeline.networks.hub.checkpoint_schedule import between, checked
from beeline.networks.hub.family import Family, Pretrained, Settings
from beeline.networks.hub.imports import diffusers
from beeline.paths.affine import Rotation
from beeline.times.schedules import check_interval, check_monotone

WHOLE = 0.02  # distance within which a time is rounded to the whole one that the network was trained with

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(output, x, a, b) -> a x0 - b x1, the derivative of x by the angle."""

PREDICTIONS: Mapping[str, Rotate] = {
    "epsilon": lambda output, x, a, b: (output - b * x) / a,
    "v_prediction": lambda output, x, a, b: output,
    "sample": lambda output, x, a, b: (a * x - output) / b.clamp(min=1e-6),
}
"""Type of prediction in a scheduler's configuration -> the derivative of the state by the angle."""


class Diffused(Pretrained):
    """A pretrained diffusion network as a velocity field on the path ``Rotation``.

    v(x, t, cond) = -start r(call(net, x, k(t), cond)),  with r = a E[x0] - b E[x1] from noise, data or v
    The time k of the network is interpolated linearly in the angle between its whole times; within 0.02 of a whole time
    it is the whole one.
    """

    def __init__(self, net: Any, family: Family, settings: Settings, scheduler: Any):
        super().__init__(net, family, settings)
        kind = scheduler.config.get("prediction_type", "epsilon")
        require(kind in PREDICTIONS, f"the scheduler has prediction_type={kind!r}; {nearest(str(kind), PREDICTIONS)}")
        self.rotate = PREDICTIONS[kind]
        self.angles = angles_of(scheduler)
        self.path = Rotation(float(self.angles[-1]))

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        y, cond = self._inputs(x, cond)
        out = self.family.call(self.net, y, self._tau(t, x), cond, self.settings).to(x)
        a, b = (expand_time(c, x) for c in (self.path.a(t), self.path.b(t)))
        return -self.path.start * self.rotate(out, x, a, b)

    def _tau(self, t: Tensor, x: Tensor) -> Tensor:
        angles = self.angles = self.angles.to(t.device)  # moved once
        at = self.path.angle(t.double()).clamp(angles[0], angles[-1])
        k = (torch.searchsorted(angles, at, right=True) - 1).clamp(0, len(angles) - 2)
        exact = k + (at - angles[k]) / (angles[k + 1] - angles[k])
        whole = exact.round()
        return torch.where((exact - whole).abs() < WHOLE, whole, exact).float()


@dataclass(frozen=True)
class DiffusionSchedule:
    """The times on the path ``Rotation`` at which the scheduler of a diffusion evaluates its network.

    t_i = 1 - phi_i / start,  tan phi_i = sigma_i, the noise levels of the scheduler
    DDIM and DPM-Solver++ have their own grids; every other scheduler with the noise levels of a discrete diffusion has
    that of DDIM.  The last time is below 1 where the scheduler ends at its lowest noise level.
    Source: the checkpoint's ``scheduler_config.json``.

    >>> DiffusionSchedule("DDIMScheduler", {"beta_schedule": "scaled_linear"}).order
    1
    """

    scheduler: str  # class of diffusers
    config: Mapping[str, Any] = field(default_factory=dict)  # the scheduler's configuration

    def __post_init__(self) -> None:
        require(
            "beta_schedule" in self.config,
            f"the pipeline has the scheduler {self.scheduler}, whose configuration has no beta_schedule; its noise "
            "levels are not those of a discrete diffusion: set pipeline.scheduler to a DDIMScheduler",
        )

    @property
    def order(self) -> int:
        """The order of DPM-Solver++ that follows the scheduler; 1 is DDIM."""
        return int(self.config.get("solver_order", 2)) if self._own in MULTISTEP else 1

    @property
    def _own(self) -> str:
        return self.scheduler if self.scheduler in MULTISTEP else "DDIMScheduler"

    def __call__(self, steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
        check_interval(steps, start, end)
        return check_monotone(between(self._times(steps), start, end), self)

    def _times(self, steps: int) -> Tensor:
        library = diffusers("a schedule of a pretrained checkpoint")
        scheduler = getattr(library, self._own).from_config(dict(self.config))
        scheduler.set_timesteps(steps)
        angles = MULTISTEP.get(self._own, ddim_angles)(scheduler)
        times = 1 - angles / angles_of(scheduler)[-1]
        times[0] = times[0].clamp(min=0)
        return checked(times, steps, self.scheduler)


def ddim_angles(scheduler: Any) -> Tensor:
    """The angles of the times of DDIM, and the one at which it ends."""
    last = scheduler.final_alpha_cumprod.double()
    end = torch.atan2((1 - last).sqrt(), last.sqrt())
    return torch.cat([angles_of(scheduler)[scheduler.timesteps], end[None]])


MULTISTEP: Mapping[str, Callable[[Any], Tensor]] = {
    "DPMSolverMultistepScheduler": lambda scheduler: torch.atan(scheduler.sigmas.double()),
}
"""Class of scheduler that DPM-Solver++ of its order follows -> the angles of its noise levels."""


def angles_of(scheduler: Any) -> Tensor:
    """The angles [N] of the whole times 0 .. N-1, growing, in float64."""
    kept = scheduler.alphas_cumprod.double()
    return torch.atan2((1 - kept).sqrt(), kept.sqrt())
