"""Guidance away from the class with which a classifier confuses a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.modes import check_values
from beeline.core.ranges import NonNegative, check_window, dataclass
from beeline.core.types import Cond, Dynamics, expand_time
from beeline.fields.flow import Flow, bind
from beeline.paths.affine import AffinePath, Linear
from beeline.sampling.guidance.dependence import FlowDependent
from beeline.sampling.steering.controller import affine_path


@dataclass(frozen=True)
class ConfusedClass(FlowDependent):
    """Guidance by a classifier without gradients: it chooses the class to lead away from, and how far.

    v = v_r + w (v_c - v_r),  w = 1 + gain (1 - p_c),  p = softmax(classifier(D)),  r = the class other than c with the
    largest p,  D = x + (1 - t) v_c the predicted datum on the straight path
    Needs no null condition.  A sample that the classifier finds right is not guided.  The classifier sees predictions
    of the datum, which are blurred at early times: guide later than that.
    Assumes an integer condition, a classifier with the same numbers of the classes, and a velocity field on an affine
    path.
    Source: Shenoy et al. 2024, "Gradient-Free Classifier Guidance for Diffusion Model Sampling" (arXiv 2411.15393); the
    form of the weight is ours.

    >>> guidance = ConfusedClass(lambda x1: torch.tensor([[0.0, 0.0, -1.0]]), gain=2.0)
    >>> f = guidance(lambda x, t, cond: cond["label"][:, None].float(), {"label": torch.tensor([0])})
    >>> f(torch.zeros(1, 1), torch.full((1,), 0.5))
    tensor([[-1.1554]])
    """

    classifier: Callable[[Tensor], Tensor]  # logits of data: [B,*S] -> [B,K]
    gain: NonNegative = 2.0  # the weight of a sample of another class, less 1; 0 is no guidance
    window: tuple[float, float] = (0.2, 0.9)  # times with guidance, both ends included
    label: str = "label"  # the name of the condition; a bare tensor has none
    path: AffinePath = field(default_factory=Linear)  # the flow's; a Sampler sets it

    def __post_init__(self) -> None:
        check_window("ConfusedClass", self.window)

    def for_flow(self, flow: Flow) -> ConfusedClass:
        """The guidance with the path of a flow."""
        return replace(self, path=affine_path(flow, "ConfusedClass"))

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        require(
            not is_map(field),
            "ConfusedClass got a flow map, whose jumps predict no datum; use CFG",
        )
        given = cond.get(self.label) if isinstance(cond, Mapping) else cond
        require(
            isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point(),
            f"ConfusedClass found no classes under the condition {self.label!r}; it leads from one class to another: "
            'pass cond={"label": ...} with one whole number for each sample, or set label= to its name',
        )
        assert isinstance(given, Tensor)
        strong, (low, high) = bind(field, cond, repeat=True), self.window

        def f(x: Tensor, t: Tensor) -> Tensor:
            v = strong(x, t)
            at = host_times(t)
            if not bool(((at >= low) & (at <= high)).any()):
                return v
            weight, other = self.confusion(self.path.data(x, v, t), given)
            changed: Cond = {**cond, self.label: other} if isinstance(cond, Mapping) else other
            weak = bind(field, changed)(x, t)
            inside = (t >= low) & (t <= high)
            extra = torch.where(inside, expand_time(weight - 1, inside), 0)
            return v + expand_time(extra, x).to(x) * (v - weak)

        return f

    @torch.no_grad()
    def confusion(self, x1: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [B] and the classes [B] to lead away from, for data [B,*S] of the classes ``labels`` [B]."""
        require(
            len(x1) == len(labels),
            f"ConfusedClass got {len(x1)} states for {len(labels)} labels; every state has a label: use a solver that "
            "is not parallel in time, such as EULER",
        )
        logits = self.classifier(x1.detach())
        require(
            logits.ndim == 2 and len(logits) == len(x1) and logits.shape[1] > 1,
            f"the classifier returned shape {tuple(logits.shape)} for {len(x1)} samples; ConfusedClass needs logits of "
            "two or more classes: return [B,K]",
        )
        given, most = labels.to(logits.device)[:, None], logits.shape[1] - 1
        own = given.clamp(0, most)
        check_values(
            (own == given).all(),
            lambda: (
                f"ConfusedClass got a label outside 0 .. {most}, the classes of the classifier; both have the same "
                "numbers: give labels of these classes, or a classifier of all"
            ),
        )
        p = logits.float().softmax(1)
        weight = 1 + self.gain * (1 - p.gather(1, own)[:, 0])
        other = logits.float().scatter(1, own, -torch.inf).argmax(1)
        return weight, other.to(labels)

    def calls(self, t: float) -> int:
        return 2 if self.window[0] <= t <= self.window[1] else 1
