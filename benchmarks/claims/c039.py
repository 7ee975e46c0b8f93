"""Pictures with a known counterfactual, a small transformer that takes its label by modulation: there are no tokens
of a text, so that the outputs under the three conditions are those of their own states, and there is no mask of
tokens."""

from __future__ import annotations

import beeline as bl
from beeline.sampling.editing.attention.flux_space import FluxSpace
from benchmarks.claims.attended import AT, PLAIN, Task
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "FluxSpace: orthogonal directions in attention"
CLAIM = "Directions in attention outputs give disentangled edits, controlled linearly by their strength."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    task = Task(rng, 1, 2)
    at = {s: task.made(FluxSpace(strength=s)) for s in (0.0, 1.0, 2.0)}
    plain = task.made(PLAIN)
    step = [float((at[s] - at[0.0])[AT].mean()) for s in (1.0, 2.0)]
    moved = float((at[2.0] - at[0.0])[AT].square().mean().sqrt())
    aside = task.outside(at[2.0]) / max(moved, 1e-9)
    wanted = float((plain - at[0.0])[AT].square().mean().sqrt())
    return [
        finding("distance to the counterfactual: direction of strength 2 (figure) against the picture itself",
                task.error(task.x), task.error(at[2.0]), task.error(at[0.0]), "strength 0"),
        finding("change outside for one unit of change of the object: direction (figure) against invert and sample",
                task.outside(plain) / wanted, aside, 1.0, "the same change everywhere"),
        finding("change of the object: deviation of twice the strength from twice the change (figure), in units of it, "
                "against no further change", 1.0, abs(step[1] - 2 * step[0]) / max(abs(step[0]), 1e-9), 1.0,
                "no further change"),
    ]  # fmt: skip
