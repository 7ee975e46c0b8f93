"""Pictures with a known style, that is their stripes, and a small transformer. The reference of every picture is
another one, with the same object; what is measured is the distance of the stripes to those of the reference."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.attention.paired import ReferenceAttention
from benchmarks.claims.attended import CONTROL, Task
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "MixSA: mixture of self-attention"
CLAIM = "Keys and values of a reference, mixed in, interpolate between styles without training."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    task = Task(rng, 1, 2)
    reference = task.x.roll(1, 0)
    apart = lambda x: float((x - reference)[..., :3, :].square().mean().sqrt())  # noqa: E731 - rows without object
    at = {w: task.made(ReferenceAttention(w, reference, 0.8, depth=(0.0, 1.0))) for w in (0.0, 0.5, 1.0)}
    own = {w: task.inside(x) for w, x in at.items()}
    return [
        finding("distance of the stripes to the reference: replaced (figure) against weight 0", apart(at[0.0]),
                apart(at[1.0]), apart(task.x), CONTROL),
        finding("distance of the stripes to the reference: weight 0.5 (figure) against weight 0", apart(at[0.0]),
                apart(at[0.5]), apart(task.x), CONTROL),
        finding("distance of the stripes to the reference: replaced (figure) against weight 0.5", apart(at[0.5]),
                apart(at[1.0]), apart(task.x), CONTROL),
        finding("error of the new object: weight 0.5 (figure) against replaced", own[1.0], own[0.5],
                task.inside(task.x), CONTROL),
    ]  # fmt: skip
