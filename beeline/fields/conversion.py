"""A trained field on another affine path: the same flow, walked along other states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Wrapping, is_map
from beeline.core.errors import require
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import AffinePath
from beeline.times.samplers import bisect_increasing


class Converted(Wrapping):
    """A velocity field learned on one affine path, as a velocity field on another.

    v'(x', t) = a' E[x1 | x] + b' E[x0 | x] on the new path, at the old state x of the same ratio a / b; a flow map
    jumps on the old path between the states of the same ratio: u'(x', t, s) = (x_s / scale_s - x') / (s - t)
    Assumes one source, and that the old path reaches the noise levels of the new one (beyond them its last one is
    used).  Nothing is learned again; one evaluation costs one evaluation.
    Source: Karras et al. 2022 (arXiv 2206.00364), scale and noise level of a diffusion; Lipman et al. 2024
    (arXiv 2412.06264), change of schedule.

    >>> from beeline.paths.affine import Cosine, Linear
    >>> Converted(lambda x, t: -x, Linear(), Linear())(torch.ones(1, 1), torch.zeros(1))
    tensor([[-1.]])
    """

    def __init__(self, field: Any, source: AffinePath, target: AffinePath):
        super().__init__()
        self.field, self.source, self.target = field, source, target

    def describe(self) -> dict[str, Any]:
        """The settings from which an equal one is built."""
        return {"field": self.field, "source": self.source, "target": self.target}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        if s is not None and is_map(self.field) and bool((s != t).any()):
            return self._jump(x, t, s, cond)
        return self._velocity(x, t, cond)

    def _jump(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        (start, before), (end, after) = (matched_time_and_scale(self.source, self.target, time) for time in (t, s))
        state = expand_time(before, x) * x
        there = state + expand_time(end - start, x) * bind(self.field, cond)(state, start, end)
        still = expand_time(s == t, x)
        mean = (there / expand_time(after, x) - x) / torch.where(still, 1.0, expand_time(s - t, x))
        return torch.where(still, self._velocity(x, t, cond), mean) if bool(still.any()) else mean

    def _velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        _, _, da, db = self.target.coefficients(t)
        # an infinite slope at an end multiplies an expected end that is zero there; next to it both are finite
        t = torch.where(da.isfinite() & db.isfinite(), t, t.clamp(1e-4, 1 - 1e-4))
        s, scale = matched_time_and_scale(self.source, self.target, t)
        state = expand_time(scale, x) * x
        x0, x1 = self.source.ends(state, bind(self.field, cond)(state, s), s)
        _, _, da, db = (expand_time(c, x) for c in self.target.coefficients(t))
        return da * x1 + db * x0


def matched_time_and_scale(source: AffinePath, target: AffinePath, t: Tensor) -> tuple[Tensor, Tensor]:
    """(s, scale): the time on ``source`` with the noise level that ``target`` has at ``t``, and x_s / x_t."""
    angle = lambda path, u: torch.atan2(path.a(u), path.b(u))  # noqa: E731 - rises from 0 to pi/2 on every path
    s = bisect_increasing(lambda u: angle(source, u), angle(target, t.double()).double()).to(t.dtype)
    s = torch.where(t == 0, torch.zeros_like(t), torch.where(t == 1, torch.ones_like(t), s))
    size = lambda path, u: torch.hypot(path.a(u), path.b(u))  # noqa: E731
    return s, size(source, s) / size(target, t)


def convert_flow(flow: Flow, path: AffinePath) -> Flow:
    """The same flow on another affine path, without training.

    >>> from beeline.paths.affine import Cosine
    >>> convert_flow(Flow(lambda x, t: -x), Cosine()).path
    Cosine()
    """
    require(
        isinstance(flow.path, AffinePath) and isinstance(path, AffinePath),
        f"a flow on {type(flow.path).__name__} was to be converted to {type(path).__name__}; only affine paths have "
        "the same states at other times: train on the path you want",
    )
    assert isinstance(flow.path, AffinePath)
    return replace(flow, field=Converted(flow.field, flow.path, path), path=path)
