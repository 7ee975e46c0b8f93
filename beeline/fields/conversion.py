"""Conversion of a trained field to another affine path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import Wrapping, is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.types import Cond, expand_time
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import AffinePath


class Converted(Wrapping):
    """A velocity field trained on one affine path, evaluated as a velocity field on another, without training.

    v'(x', t) = a' E[x1 | x] + b' E[x0 | x] on the new path, at the old state x of the same ratio a / b;  for a flow
    map u'(x', t, s) = (x_s / scale_s - x') / (s - t), by a jump between the states of the same ratios
    Assumes the same source, and that the old path covers the noise levels of the new one (its extreme levels are used
    beyond).
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
        """The constructor's arguments."""
        return {"field": self.field, "source": self.source, "target": self.target}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = None, s: Tensor | None = None) -> Tensor:
        if s is not None and is_map(self.field) and bool((host_times(s) != host_times(t)).any()):
            return self._jump(x, t, s, cond)
        return self._velocity(x, t, cond)

    def _jump(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        (start, before), (end, after) = (matched_time_and_scale(self.source, self.target, time) for time in (t, s))
        state = expand_time(before, x) * x
        there = state + expand_time(end - start, x) * bind(self.field, cond)(state, start, end)
        still = expand_time(s == t, x)
        mean = (there / expand_time(after, x) - x) / torch.where(still, 1.0, expand_time(s - t, x))
        same = bool((host_times(s) == host_times(t)).any())
        return torch.where(still, self._velocity(x, t, cond), mean) if same else mean

    def _velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        _, _, da, db = self.target.coefficients(t)
        # at an end an infinite slope multiplies a factor that is zero; close to the end both are finite
        t = torch.where(da.isfinite() & db.isfinite(), t, t.clamp(1e-4, 1 - 1e-4))
        s, scale = matched_time_and_scale(self.source, self.target, t)
        state = expand_time(scale, x) * x
        x0, x1 = self.source.ends(state, bind(self.field, cond)(state, s), s)
        _, _, da, db = (expand_time(c, x) for c in self.target.coefficients(t))
        return da * x1 + db * x0


def matched_time_and_scale(source: AffinePath, target: AffinePath, t: Tensor) -> tuple[Tensor, Tensor]:
    """(s, scale): the time on ``source`` with the noise level that ``target`` has at ``t``, and x_s / x_t."""
    exact = t.double()
    s = source.time_of_ratio(target.a(exact), target.b(exact)).to(t.dtype)
    s = torch.where(t == 0, torch.zeros_like(t), torch.where(t == 1, torch.ones_like(t), s))
    size = lambda path, u: torch.hypot(path.a(u), path.b(u))  # noqa: E731
    return s, size(source, s) / size(target, t)


def convert_flow(flow: Flow, path: AffinePath) -> Flow:
    """The flow on another affine path, without training.

    >>> from beeline.paths.affine import Cosine
    >>> convert_flow(Flow(lambda x, t: -x), Cosine()).path
    Cosine()
    """
    require(
        isinstance(flow.path, AffinePath) and isinstance(path, AffinePath),
        f"convert_flow got a flow on {type(flow.path).__name__} and the path {type(path).__name__}; conversion is "
        "defined between affine paths only: train on the new path",
    )
    assert isinstance(flow.path, AffinePath)
    return replace(flow, field=Converted(flow.field, flow.path, path), path=path)
