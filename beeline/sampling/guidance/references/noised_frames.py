"""Guidance by the prediction under a noised history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field as default
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import for_branch, in_place_of, is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import NoiseProcess
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.dependence import FlowDependent
from beeline.solvers.diffusions import White


@dataclass(frozen=True)
class NoisedFrames(FlowDependent):
    """The same field with given frames noised to an earlier time, for guidance by the history.

    weak = v(x', t');  x'_f = a(level) x_f + b(level) z_f, t'_f = level for frames f of the history, x_f and t_f else
    The noise z is one for a run.  Level 0 hides the history; higher levels hide its details alone.  Inside
    GivenFrames(frames, Guide(NoisedFrames(frames), Extrapolate(scale))) it guides the other frames; Guides with parts
    of the history compose them.
    Assumes states [B, F, ...] and a field that takes times [B, F], trained with independent times of the frames.
    Source: Song et al. 2025, "History-Guided Video Diffusion" (arXiv 2502.06764).

    >>> weak, _ = NoisedFrames((0,), level=1.0)(lambda x, t, cond=None: x + t[:, :, None], None)
    >>> weak(torch.ones(1, 2, 1), torch.tensor([[1.0, 0.5]])).flatten()
    tensor([2.0000, 1.5000])
    """

    frames: tuple[int, ...]  # indices of the history, from 0
    level: Share = 0.0  # time of the noised history; 1 is the strong prediction
    noise: NoiseProcess = default(default_factory=lambda: White(Rng(0)))
    path: AffinePath = default(default_factory=Linear)  # the flow's

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(int(f) for f in self.frames))
        require(
            min(self.frames, default=-1) >= 0,
            f"NoisedFrames got frames={self.frames}; it noises given frames: pass at least one index from 0",
        )

    def for_flow(self, flow: Flow) -> NoisedFrames:
        """The reference with the path of ``flow``."""
        require(
            isinstance(flow.path, AffinePath) and not is_map(flow.field),
            f"NoisedFrames got a flow on {type(flow.path).__name__} or a flow map; it noises states of an affine path: "
            "use a velocity field on a path such as Linear()",
        )
        return replace(self, path=flow.path)  # type: ignore[arg-type]

    def with_seeds(self, seeds: Sequence[int], *names: int | str | float) -> NoisedFrames:
        return replace(self, noise=self.noise.with_seeds(seeds, *names))

    def for_rows(self, start: int, end: int) -> NoisedFrames:
        return replace(self, noise=self.noise.for_rows(start, end))

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        own, frames = for_branch(field), list(self.frames)

        def weak(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            require(
                x.ndim > 2 and max(frames) < x.shape[1],
                f"NoisedFrames({self.frames}) got states of shape {tuple(x.shape)}; frames are the second of at least "
                "three dimensions: pass indices below its size",
            )
            past = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
            past[frames] = True
            times = t if t.ndim > 1 else t[:, None].expand(x.shape[:2])
            level = torch.full((len(x),), self.level, dtype=x.dtype)
            z = self.noise(level, level, x, "history")
            now = torch.full_like(times, self.level)
            hidden = expand_time(self.path.a(now), x) * x + expand_time(self.path.b(now), x) * z
            chosen = expand_time(past.expand(x.shape[:2]), x)
            return bind(own, cond)(torch.where(chosen, hidden, x), torch.where(past, now, times))

        return in_place_of(field, weak), cond
