"""The rows of the few-step benchmark: every distillation of the registry, some with settings of their own."""

from __future__ import annotations

from dataclasses import dataclass

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.protocols.training import Distillation

SET = (  # measured first; with pairs of 16 evaluations there are enough of them
    "ParallelDecoding(most=4)",
    "ParallelDecoding()",
    "OneStep(Sampler(8))",
    "Reflow(Sampler(8))",
    "PeRFlow(4)",
)
FOR_ONE = ("PeRFlow()", "DMD2()", "FDistill()", "SharedDMD()")  # once more, trained for one evaluation
NARROW = ("OneStep(Sampler(8))", "Reflow(Sampler(8), anneal=500)")  # students of half the width
LEFT_OUT = {
    "InnerLoopFeedback": "it skips blocks and does not reduce the evaluations",
    "ContrastTuned": "it replaces guidance and does not reduce the evaluations",
    "FeatureTuned": "it improves samples and does not reduce the evaluations",
    "GuidanceTuned": "it replaces guidance and does not reduce the evaluations",
    "FlowMapDistillation": "the methods of flow maps are its settings",
}


@dataclass(frozen=True)
class Row:
    """A student: its method, the number of evaluations it is trained for if not the default, and its width."""

    method: str
    evaluations: int | None = None
    narrow: bool = False  # a new network of half the width of the teacher's

    @property
    def name(self) -> str:
        about = "" if self.evaluations is None else f" for {self.evaluations}"
        return f"{self.method}{about}{', half width' if self.narrow else ''}"

    def build(self) -> Distillation:
        """The distillation; raises BeelineError for a name or a setting that does not exist."""
        found: Distillation = config.parse(self.method, "distillations")
        return found if self.evaluations is None else found.for_evaluations(self.evaluations)


def rows() -> list[Row]:
    """The students that are measured where none is named."""
    known = {text.split("(")[0] for text in SET} | set(LEFT_OUT)
    found = [Row(text) for text in (*SET, *(f"{name}()" for name in CATALOGUE["distillations"] if name not in known))]
    return [*found, *(Row(text, 1) for text in FOR_ONE), *(Row(text, narrow=True) for text in NARROW)]
