"""Sampling at a small size first, and enlarging between steps, for samples above the trained resolution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.modes import deferred, eval_mode
from beeline.core.protocols.flows import Guidance, NoiseProcess
from beeline.core.ranges import Count, Inside, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.couplings.sources import Gaussian
from beeline.fields.flow import Flow
from beeline.paths.affine import AffinePath
from beeline.sampling.guidance.dependence import for_rows, with_seeds
from beeline.sampling.guidance.guide import Guide, guidance_for_flow
from beeline.sampling.sampler import Call, Sampler, count_evaluations
from beeline.solvers.diffusions import White


class Resize(Protocol):
    """Changes the last two axes of data [B,*S] to ``size``."""

    def __call__(self, x: Tensor, size: tuple[int, int]) -> Tensor: ...


@dataclass(frozen=True)
class Bicubic:
    """Cubic interpolation of the last two axes.

    y(p) = sum_q k(p - q) x(q),  with the piecewise cubic kernel k of torch; x itself at the same size

    >>> import torch
    >>> Bicubic()(torch.ones(1, 3, 2, 2), (4, 6)).shape
    torch.Size([1, 3, 4, 6])
    """

    def __call__(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if x.shape[-2:] == size:
            return x
        flat = x.flatten(0, -3)[:, None]
        return F.interpolate(flat, size, mode="bicubic").reshape(*x.shape[:-2], *size)


@dataclass(frozen=True)
class Enlarging(Sampler):
    """A sampler that begins at a smaller size, and enlarges its data estimate with fresh noise between two steps.

    x <- a(t) resize(D) + b(t) z,  D = E[x1 | x_t] by the guided field,  z ~ N(0, I)
    Stage k has ``sizes[k]`` times the size of x0, the last stage that of x0, and ends at the first time of the schedule
    from ``at[k]``.  The first stage begins with a corner of x0.  Every enlargement takes one more evaluation.  D has
    less variance than data, so that x loses the variance a(t)^2 Var[x1 | x_t]: ``guidances`` with larger scales, as
    from ``energy_rectified``, restore the mean square.
    Assumes a Gaussian source, an affine path, and a field that takes images of any size.
    Source: Yang et al. 2025, "RectifiedHR" (arXiv 2503.02537).

    >>> import torch
    >>> flow = Flow(lambda x, t: 1 + 0 * x)
    >>> Enlarging(4)(flow, torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    sizes: tuple[float, ...] = (0.5,)  # of all stages but the last, rising
    at: tuple[float, ...] = (0.6,)  # times of the enlargements, rising
    guidances: tuple[Guidance, ...] = ()  # of the stages after the first; empty for that of the first
    multiple: Count = 2  # heights and widths are rounded up to multiples of it
    resize: Resize = field(default_factory=Bicubic)
    noise: NoiseProcess = field(default_factory=lambda: White(Rng(0)))

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.sizes)
        require(
            n >= 1 and len(self.at) == n and len(self.guidances) in (0, n),
            f"Enlarging got {n} sizes, {len(self.at)} times and {len(self.guidances)} guidances; every enlargement has "
            "a size before it, a time, and a guidance after it: give as many of each, or no guidances",
        )
        require(
            all(0 < a <= b for a, b in itertools.pairwise((*self.sizes, 1.0))),
            f"Enlarging got sizes={self.sizes}; they are parts of the last size and never fall: give rising numbers in "
            "(0, 1]",
        )
        require(
            all(0 < a < b for a, b in itertools.pairwise((*self.at, 1.0))),
            f"Enlarging got at={self.at}, which are no rising times inside (0, 1); give some, such as (0.6,)",
        )

    def seeded(self, seeds: Sequence[int], *names: int | str | float) -> Enlarging:
        noise = self.noise.with_seeds(seeds, *names)
        later = tuple(with_seeds(guidance, seeds, *names) for guidance in self.guidances)
        made = super().seeded(seeds, *names)
        own = replace(self, guidances=later, noise=noise)
        return replace(own, solver=made.solver, guidance=made.guidance, controllers=made.controllers)

    def for_rows(self, start: int, end: int) -> Enlarging:
        made, noise = super().for_rows(start, end), self.noise.for_rows(start, end)
        own = replace(self, guidances=tuple(for_rows(g, start, end) for g in self.guidances), noise=noise)
        return replace(own, solver=made.solver, guidance=made.guidance, controllers=made.controllers)

    def _sample(self, flow: Flow, x0: Tensor, cond: Cond, call: Call) -> Tensor:
        call.check_whole("Enlarging", "its size changes")
        require(
            not is_map(flow.field) and isinstance(flow.path, AffinePath) and isinstance(flow.source, Gaussian),
            f"Enlarging got a flow from {type(flow.source).__name__} on {type(flow.path).__name__}; it takes data "
            "estimates of a velocity field on an affine path, and Gaussian noise: use a Sampler",
        )
        require(
            x0.ndim >= 4,
            f"Enlarging got states of shape {tuple(x0.shape)}; it enlarges images [B,C,H,W] or videos: use a Sampler",
        )
        x, stages = x0, self.stages()
        for k, (guidance, times) in enumerate(stages):
            size = self.size(k, x0)
            x = x0[..., : size[0], : size[1]] if k == 0 else self.refreshed(flow, x, cond, stages[k - 1], size)
            done = call.done if k == len(stages) - 1 else None
            plain = Sampler(self.steps, self.schedule, self.solver, guidance, self.controllers)
            x = plain._solve(flow, x, cond, times, call._replace(done=done))
        return x

    def stages(self) -> list[tuple[Guidance, Tensor]]:
        """Guidance and times of every stage."""
        times = self.times()
        cuts = [0, *(int((times >= t - 1e-6).nonzero()[0]) for t in self.at), self.steps]
        require(
            all(a < b for a, b in itertools.pairwise(cuts)),
            f"Enlarging got {self.steps} steps, of which none is between two of the times {(0.0, *self.at, 1.0)}; give "
            "more steps, or other times",
        )
        guidances = (self.guidance, *(self.guidances or [self.guidance] * len(self.at)))
        return [(guidances[k], times[a : b + 1]) for k, (a, b) in enumerate(itertools.pairwise(cuts))]

    def size(self, stage: int, x0: Tensor) -> tuple[int, int]:
        """Height and width of a stage."""
        part = (*self.sizes, 1.0)[stage]
        h, w = (min(side, -(-round(side * part) // self.multiple) * self.multiple) for side in x0.shape[-2:])
        return h, w

    def refreshed(
        self, flow: Flow, x: Tensor, cond: Cond, before: tuple[Guidance, Tensor], size: tuple[int, int]
    ) -> Tensor:
        """The state at the end of the stage ``before`` at another size, with fresh noise."""
        guidance, times = before
        t = times[-1].to(x).expand(len(x))
        with eval_mode(flow, guidance), deferred():
            here = map_cond(lambda leaf: leaf.to(x.device), cond)
            v = guidance_for_flow(guidance, flow, times)(flow.field, here)(x, t)
            assert isinstance(flow.path, AffinePath)
            data = self.resize(flow.path.data(x, v, t), size)
            return flow.path.point(self.noise(t, t, data, "enlarge"), data, t).x

    @property
    def evaluations(self) -> int | None:
        counts = [
            count_evaluations(self.solver, guidance, times, self.controllers) for guidance, times in self.stages()
        ]
        between = [guidance.calls(round(float(times[-1]), 6)) for guidance, times in self.stages()[:-1]]
        known = [count for count in counts if count is not None]
        return sum(known) + sum(between) if len(known) == len(counts) else None


def energy_rectified(
    sampler: Enlarging, flow: Flow, x0: Tensor, cond: Cond = None, *, within: Inside = 0.05, most: Positive = 64.0
) -> Enlarging:
    """The sampler with the scale of guidance after the first stage for which samples keep their energy.

    mean(x1^2) of enlarged samples = mean(x1^2) of samples of the first size, up to the share ``within``
    The scale is found by bisection between that of the sampler and ``most``; energy is raised, never lowered.  Takes
    about ten times the evaluations of sampling ``x0`` [B,*S], for which few samples are enough.

    Raises ValueError for a sampler without a guidance scale, and if the scale ``most`` is not enough.
    """
    guide = sampler.guidance
    require(
        isinstance(guide, Guide),
        f"energy_rectified got the guidance {type(guide).__name__}, which has no scale; use CFG or another Guide",
    )
    assert isinstance(guide, Guide)
    rule: Any = guide.rule
    plain = Sampler(sampler.steps, sampler.schedule, sampler.solver, guide, sampler.controllers)
    h, w = sampler.size(0, x0)
    wanted = float(plain(flow, x0[..., :h, :w], cond).square().mean())

    def at(scale: float) -> tuple[Enlarging, float]:
        guidance = replace(guide, rule=replace(rule, scale=scale))
        made = replace(sampler, guidances=(guidance,) * len(sampler.at))
        return made, float(made(flow, x0, cond).square().mean()) / wanted

    low, high = float(rule.scale), float(most)
    made, ratio = at(low)
    if ratio >= 1 - within:
        return made
    made, ratio = at(high)
    require(
        ratio >= 1 - within,
        f"energy_rectified got samples with {ratio:.2f} times the energy of the first size at the scale {high:g}; "
        "give a larger most, or enlarge later",
    )
    while abs(ratio - 1) > within and high - low > 1e-3:
        middle = (low + high) / 2
        made, ratio = at(middle)
        low, high = (middle, high) if ratio < 1 else (low, middle)
    return made
