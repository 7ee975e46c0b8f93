"""Guidance of the field of a reference, in place of the field itself."""

from __future__ import annotations

from dataclasses import field as default
from typing import Any

from beeline.core.protocols.flows import Guidance, Reference
from beeline.core.ranges import dataclass
from beeline.core.types import Cond, Dynamics
from beeline.sampling.guidance.dependence import Containing, needs_evaluation
from beeline.sampling.guidance.guide import Plain
from beeline.solvers.process import FieldReadout


@dataclass(frozen=True)
class Substituted(Containing):
    """Guidance of the field and the condition of a reference, in place of those that are sampled.

    v = guidance(field', cond'),  (field', cond') = reference(field, cond)
    Assumes a reference whose field is meant to be sampled from, such as SparseAttention.
    Source: Kim and Sim 2025, PLADIS (arXiv 2503.07677), with SparseAttention as the reference.

    >>> from beeline.sampling.guidance.guide import CFG
    >>> from beeline.sampling.guidance.references.attention import SparseAttention
    >>> Substituted(SparseAttention(scale=2.0), CFG(3.0, null=10)).calls(0.5)
    2
    """

    reference: Reference
    guidance: Guidance = default(default_factory=Plain)

    def __post_init__(self) -> None:
        needs_evaluation(self.reference, "Substituted")

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        if isinstance(field, FieldReadout):
            other, cond = self.reference(field.field, cond)
            return self.guidance(field.with_field(other), cond)
        return self.guidance(*self.reference(field, cond))

    def calls(self, t: float) -> int:
        return self.guidance.calls(t)
