"""Pictures with a known counterfactual, a small transformer without a text: of the three features those of the picture
and of the blocks are measured, with 4 of 16 keys left to the target. The benchmarks and user studies of the paper
are not."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.attention.reflex import ReFlex
from beeline.sampling.editing.attention.shared import SharedValues
from benchmarks.claims.attended import CONTROL, PLAIN, Task
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ReFlex: mid-step features and attention adaptation"
CLAIM = "Features of one mid-step state keep the structure of a real image better than those of the whole trajectory."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    found = []
    for old, new, what in ((0, 1, "an object appears"), (1, 2, "a bright object becomes dark")):
        task = Task(rng, old, new)
        plain, flexible, shared = (
            task.error(task.made(edit)) for edit in (PLAIN, ReFlex(kept=4), SharedValues(steps=3))
        )
        found += [
            finding(f"distance to the counterfactual, {what}: one mid-step state (figure) against invert and sample",
                    plain, flexible, task.error(task.x), CONTROL),
            finding(f"distance to the counterfactual, {what}: one mid-step state (figure) against shared values of "
                    "three steps (RF-Edit)", shared, flexible, task.error(task.x), CONTROL),
        ]  # fmt: skip
    return found
