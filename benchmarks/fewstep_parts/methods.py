"""The rows of the few-step benchmark: distillations of the registry with their settings."""

from __future__ import annotations

METHODS = (
    "ParallelDecoding(most=4)",
    "ParallelDecoding(most=1)",
    "OneStep()",
    "Reflow()",
    "PeRFlow(1)",
    "PeRFlow(4)",
)
NARROW = ("OneStep()", "Reflow(anneal=500)")  # students of half the width
