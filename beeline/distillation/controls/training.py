"""Training of a control on pictures and their hints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

import torch
from torch import nn

from beeline.core.declared import traits_of
from beeline.core.ranges import Share, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Batch, Cond
from beeline.distillation.adapting import ByFlowMatching
from beeline.distillation.students import copied
from beeline.fields.flow import Flow
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.controls.branches import ControlBranch
from beeline.networks.controls.control import Control
from beeline.networks.controls.hints import Edges, Hint
from beeline.networks.controls.with_control import CONTROL, controlled, controls_of, transformer_of
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class ControlTraining(ByFlowMatching):
    """Flow matching on pictures and their hints, in which only a control is trained.

    the objective FlowMatching on the path of the flow, with cond["control"] = hint(x1)
    The hint stays where other conditions are dropped, so that guidance by them keeps it.  A flow with controls gets one
    more, whose name differs.
    Source: Zhang, Rao and Agrawala 2023 (arXiv 2302.05543).

    >>> ControlTraining().title
    'edges'
    """

    control: Control = field(default_factory=ControlBranch)
    hint: Hint = field(default_factory=Edges)  # how hints are made from pictures
    name: str = ""  # of the control; "" is that of the hint in small letters
    drop: Share = 0.1  # of other conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the flow with the control

    @property
    def title(self) -> str:
        """The name of the control."""
        return self.name or type(self.hint).__name__.lower()

    def objective(self, teacher: Flow) -> FlowMatching:
        return self.matching(with_named_null(teacher))

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return super().student(with_named_null(teacher), networks)

    def changed(self, teacher: Flow) -> nn.Module:
        probe = torch.zeros(1, *transformer_of(backbone_of(teacher.field)).shape)
        return controlled(copied(teacher), self.control, self.hint(probe).shape[1], self.title)

    def data(self, teacher: Flow, batch: Batch, rng: Rng) -> Batch:
        others: Mapping[str, Any] = batch.cond if isinstance(batch.cond, Mapping) else {}
        made = self.hint(batch.x1)
        hint: Cond = {self.title: made} if controls_of(teacher.field) else made
        return replace(batch, cond={**others, CONTROL: hint})


def with_named_null(teacher: Flow) -> Flow:
    """A flow whose null has the names of its conditions, so that it says nothing of hints beside them."""
    if teacher.null is None or isinstance(teacher.null, Mapping):
        return teacher
    return replace(teacher, null=dict.fromkeys(traits_of(teacher.field).nulls or {}, teacher.null))
