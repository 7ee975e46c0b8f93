"""The rows of the few-step benchmark: every distillation of the registry, some with settings of their own."""

from __future__ import annotations

from beeline.config.catalogue import CATALOGUE

SET = (  # measured first; with pairs of 16 evaluations there are enough of them
    "ParallelDecoding(most=4)",
    "ParallelDecoding()",
    "OneStep(Sampler(8))",
    "Reflow(Sampler(8))",
    "PeRFlow(1)",
    "PeRFlow(4)",
)
NARROW = ("OneStep(Sampler(8))", "Reflow(Sampler(8), anneal=500)")  # students of half the width
LEFT_OUT = {
    "InnerLoopFeedback": "it skips blocks and does not reduce the evaluations",
    "ContrastTuned": "it replaces guidance and does not reduce the evaluations",
    "FeatureTuned": "it improves samples and does not reduce the evaluations",
    "GuidanceTuned": "it replaces guidance and does not reduce the evaluations",
    "FlowMapDistillation": "the methods of flow maps are its settings",
}


def methods() -> tuple[str, ...]:
    """The rows that are measured where none is named."""
    known = {text.split("(")[0] for text in SET} | set(LEFT_OUT)
    return (*SET, *(f"{name}()" for name in CATALOGUE["distillations"] if name not in known))
