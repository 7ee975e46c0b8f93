"""Training of a small change of a flow on data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from torch import nn

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.ranges import Share, dataclass
from beeline.distillation.finetune import OnData
from beeline.distillation.students import copied, error_space
from beeline.fields.flow import Flow
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import Delta, LoRA
from beeline.objectives.matching import Drop, FlowMatching
from beeline.sampling.sampler import Sampler


@dataclass(frozen=True)
class Adaptation(OnData):
    """Flow matching on data in which only a delta of the weights is trained.

    the objective FlowMatching on the path of the flow, with W' = delta(W) in its layers
    Conditions are dropped as often as ``drop`` says where the flow has a null.  A flow map is refused: adapt the flow
    from which it was distilled, and distil again.
    Source: Hu et al. 2021 (arXiv 2106.09685).

    >>> Adaptation().delta.rank
    4
    """

    delta: Delta = field(default_factory=LoRA)
    layers: tuple[str, ...] = ()  # ends of names of layers; none: all layers of the blocks
    drop: Share = 0.1  # of conditions
    sampler: Sampler = field(default_factory=Sampler)  # of the adapted flow

    def networks(self, teacher: Flow) -> dict[str, nn.Module]:
        require(
            not is_map(teacher.field),
            "a flow map was to be adapted, whose jumps are not learned by flow matching on data; adapt the flow "
            "that it was distilled from, and distil the result",
        )
        return {"student": adapted(copied(teacher), self.delta, self.layers)}

    def objective(self, teacher: Flow) -> FlowMatching:
        drop = Drop(self.drop, teacher.null) if teacher.null else None
        return FlowMatching(teacher.path, prediction=error_space(teacher), drop=drop)

    def student(self, teacher: Flow, networks: Mapping[str, nn.Module]) -> tuple[Flow, Sampler]:
        return replace(teacher, field=networks["student"]), self.sampler
