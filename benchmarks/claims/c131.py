"""An object appears on empty pictures; a small transformer without a text, so that the balance is that of queries of
the picture, and human comparisons and the affordance benchmark are not measured. Blending takes the region in which
the velocities of both conditions differ."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.attention.added import AddIt
from beeline.sampling.editing.masks.difference import Difference
from beeline.sampling.editing.resampled import SDEdit
from benchmarks.claims.attended import CONTROL, PLAIN, Task
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Add-it: weighted extended attention"
CLAIM = "Objects are inserted with the structure of the scene preserved, without training."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    task = Task(rng, 0, 1)
    plain, added = task.made(PLAIN), task.made(AddIt(start=0.0))
    noised = task.made(SDEdit(0.3))
    blend = task.made(AddIt(start=0.0, region=Difference(draws=4), blend=0.5))
    nothing = task.error(task.x)
    return [
        finding("distance to the counterfactual: extended attention (figure) against invert and sample",
                task.error(plain), task.error(added), nothing, CONTROL),
        finding("distance to the counterfactual: extended attention (figure) against SDEdit", task.error(noised),
                task.error(added), nothing, CONTROL),
        finding("change outside of the object: blended (figure) against not blended", task.outside(added),
                task.outside(blend), task.outside(noised), "SDEdit"),
        finding("error of the object: blended (figure) against not blended", task.inside(added), task.inside(blend),
                task.inside(task.x), CONTROL),
    ]  # fmt: skip
