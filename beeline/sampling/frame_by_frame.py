"""Sampling of one frame after another, each given those before it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from beeline.core.errors import require
from beeline.core.ranges import Count, dataclass
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.sampling.guidance.frames import GivenFrames
from beeline.sampling.sampler import Call, Sampler


@dataclass(frozen=True)
class FrameByFrame(Sampler):
    """A sampler of sequences, a group of frames at a time: those before it are given, those after it wait as noise.

    for g = 0, 1, ...:  x_g = sampler(x_g | x_<g at t = 1, x_>g at t = 0)
    Assumes data [B,F,*S] and a field with a time for every frame, trained with the times Frames.
    Source: Chen et al. 2024, "Diffusion Forcing" (arXiv 2407.01392); Huang et al. 2025, "Self Forcing" (arXiv
    2506.08009).

    >>> FrameByFrame(2).group
    1
    """

    group: Count = 1  # frames that are sampled together

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        call.check_whole("FrameByFrame", "frames follow each other")
        require(
            x0.ndim >= 3,
            f"FrameByFrame got states of shape {tuple(x0.shape)}; frames are the second dimension: use it for data "
            "[B,F,*S], or a Sampler",
        )
        if flow.trained is not None:
            flow.trained.check(self.times(), self.steps, False)
        plain, x, frames = replace(flow, trained=None), x0, x0.shape[1]
        for low in range(0, frames, self.group):
            high = min(low + self.group, frames)
            guidance = GivenFrames(tuple(range(low)), self.guidance, tuple(range(high, frames)))
            one = Sampler(self.steps, self.schedule, self.solver, guidance, self.controllers)
            x = one(plain, x, cond, watch=call.watch)
        return x

    @property
    def evaluations(self) -> int | None:
        return None  # it depends on the number of frames
