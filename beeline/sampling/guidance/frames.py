"""Guidance that keeps given frames fixed and samples the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.sampling.guidance.dependence import Containing
from beeline.sampling.guidance.guide import Plain, like_field


@dataclass(frozen=True)
class GivenFrames(Containing):
    """Keeps given frames of the initial state fixed at t = 1 while the others are sampled.

    v_f = 0 for a given frame f;  v_f(x, tau) for the others,  tau_f = 1 for a given frame and t otherwise;  a waiting
    frame stays noise: v_f = 0 and tau_f = 0
    Assumes states [B, F, ...] and a field that takes times [B, F], trained with ``Frames(clean > 0)``.
    Source: Le et al. 2024, "One Diffusion to Generate Them All" (arXiv 2411.16318); Chen et al. 2024, "Diffusion
    Forcing" (arXiv 2407.01392).

    >>> f = GivenFrames((0,))(lambda x, t: t[:, :, None] + 0 * x, None)
    >>> f(torch.zeros(1, 2, 1), torch.zeros(1) + 0.5).flatten()
    tensor([0.0000, 0.5000])
    """

    frames: tuple[int, ...]  # indices of the given frames, from 0
    guidance: Guidance = field(default_factory=Plain)  # for the others
    waiting: tuple[int, ...] = ()  # indices of frames that are sampled later

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(int(f) for f in self.frames))
        object.__setattr__(self, "waiting", tuple(int(f) for f in self.waiting))
        require(
            min((*self.frames, *self.waiting), default=-1) >= 0 and not set(self.frames) & set(self.waiting),
            f"GivenFrames got frames={self.frames} and waiting={self.waiting}; it needs at least one frame, and none "
            "twice: pass indices from 0",
        )

    def __call__(self, field: object, cond: Cond) -> Dynamics:
        inner = self.guidance(field, cond)

        def f(x: Tensor, *times: Tensor) -> Tensor:
            require(
                x.ndim >= 2 and max((*self.frames, *self.waiting)) < x.shape[1],
                f"GivenFrames({self.frames}, waiting={self.waiting}) got states of shape {tuple(x.shape)}; frames are "
                "the second dimension: pass indices below its size",
            )
            own = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
            own[[*self.frames, *self.waiting]] = False
            fixed = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
            fixed[list(self.waiting)] = 0
            each = (torch.where(own, t[:, None] if t.ndim == 1 else t, fixed.to(t.dtype)) for t in times)
            return inner(x, *each) * expand_time(own.expand(x.shape[:2]), x)

        return like_field(field, f)

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)
