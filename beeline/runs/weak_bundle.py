"""A weaker trained flow as the reference of guidance, named by its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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

    >>> WeakBundle("runs/digits", average="1-powerema").directory
    'runs/digits/averages/1-powerema'
    """

    path: str  # directory of a bundle, a run or an average (RUN/averages/...), or hub:owner/name
    average: str | None = None  # the name of a stored average of the run ``path``, as in RUN/averages

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))

    @property
    def directory(self) -> str:
        """That of the bundle, or its name on the hub."""
        return self.path if self.average is None else str(Path(self.path, "averages", self.average))

    def flow(self) -> Flow:
        """The weak flow; raises ValueError for an average that is not stored."""
        folder = Path(self.path, "averages")
        stored = sorted(p.parent.name for p in folder.glob("*/flow.json"))
        require(
            self.average is None or self.average in stored,
            f"WeakBundle got average={self.average!r}, which is no stored average of the run {self.path}; stored are "
            f"{', '.join(stored) or 'none'}: name a stored one, or make one with 'beeline average {self.path} "
            "--length 0.05'",
        )
        return bundled(self.directory)

    def for_flow(self, flow: Flow) -> Weak:
        """The reference beside one flow, on its device."""
        weak = self.flow()
        require(
            weak.path == flow.path and weak.source == flow.source,
            f"the weak flow {self.directory} goes along {weak.path} from {weak.source}, but the flow that it guides "
            f"along {flow.path} from {flow.source}, so that their velocities do not compare; train both alike",
        )
        return Weak(weak.field.to(device_of(flow.field) or "cpu"))

    def __call__(self, field: Any, cond: Cond) -> tuple[Any, Cond]:
        return self.flow().field.to(device_of(field) or "cpu"), cond
