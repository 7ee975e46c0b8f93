"""Pictures with a known counterfactual, a small transformer; a bright object becomes a dark one, or appears on an
empty picture. The enriched keys are those of the inverted source in the last half of four blocks."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.attention.paired import KeyValueEnriched, ReferenceAttention
from benchmarks.claims.attended import CONTROL, PLAIN, Task
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ContextFlow: enriched keys and values"
CLAIM = "Enriching context by concatenated keys and values resolves conflicts that hard replacement causes."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    appear, other = Task(rng, 0, 1), Task(rng, 1, 2)
    found = []
    for task, what in ((appear, "an object appears"), (other, "a bright object becomes dark")):
        plain, rich = (task.error(task.made(edit)) for edit in (PLAIN, KeyValueEnriched()))
        hard = task.error(task.made(ReferenceAttention(1.0, share=0.5)))
        found += [
            finding(f"distance to the counterfactual, {what}: enriched (figure) against invert and sample", plain, rich,
                    task.error(task.x), CONTROL),
            finding(f"distance to the counterfactual, {what}: enriched (figure) against replaced keys and values", hard,
                    rich, task.error(task.x), CONTROL),
        ]  # fmt: skip
    return found
