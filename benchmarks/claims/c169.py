"""Loss of held-out digits of a student that keeps the first and the last of the four blocks of a transformer: trained
as any flow, without its teacher, against training with the velocities and tokens of the teacher; with equal steps, and
with equal operations, since the teacher is evaluated too (a step costs 5/3 of one without it)."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Shallow
from beeline.networks.compressing.removal.blocks import EvenlySpaced
from benchmarks.claims.shorter import student
from benchmarks.claims.small_transformers import heldout
from benchmarks.claims.storing import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Distillation without a teacher: truncate and train"
CLAIM = "Half of the size, as good as distillation with a teacher, and 1.5 times as efficient in compute."
STEPS = 120


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, _ = digits(rng.seed)
    method = Shallow(2, EvenlySpaced())
    small = method.apply(net, method.plan(net, probe), probe, rng)
    taught = student(small, net, rng, STEPS, output=1.0, features=0.1)
    equal, longer = (student(small, net, rng, steps) for steps in (STEPS, STEPS * 5 // 3))
    distilled, alone, further, cut = (heldout(m, rng) for m in (taught, equal, longer, small))
    return [
        finding("no teacher (figure) against velocities and tokens of one: equal steps", distilled, alone, cut,
                "no training"),
        finding("no teacher (figure) against velocities and tokens of one: equal operations", distilled, further, cut,
                "no training"),
    ]  # fmt: skip
