"""A weaker trained flow as the reference of guidance, named by its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beeline.core.errors import require
from beeline.core.modes import device_of
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.runs.features.bundles import bundled
from beeline.sampling.guidance.guide import FlowDependent, Weak


@dataclass(frozen=True)
class WeakBundle(FlowDependent):
    """The field of another bundle under the same condition: a smaller network, or an earlier average of the same run.

    weak = other(x, t, cond)
    Assumes that the other flow was learned on the same data; another path or source is refused.
    Source: Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv 2406.02507).

    >>> WeakBundle("runs/digits/averages/1-power").path
    'runs/digits/averages/1-power'
    """

    path: str  # directory of a bundle, a run or an average (RUN/averages/...), or hub:owner/name

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    def for_flow(self, flow: Flow) -> Weak:
        """The reference beside one flow, on its device."""
        weak = bundled(self.path)
        require(
            weak.path == flow.path and weak.source == flow.source,
            f"the weak flow {self.path} goes along {weak.path} from {weak.source}, but the flow that it guides along "
            f"{flow.path} from {flow.source}, so that their velocities do not compare; train both alike",
        )
        return Weak(weak.field.to(device_of(flow.field) or "cpu"))

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        return bundled(self.path).field.to(device_of(field) or "cpu"), cond
