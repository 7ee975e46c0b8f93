"""Loss of held-out digits of a student without the second block of each half of a transformer of four, after 150 steps
on 64 pictures: with the velocities of the teacher and the tokens after each half, against training as any flow, and
against the velocities alone."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Shallow
from beeline.networks.compressing.removal.blocks import Listed
from benchmarks.claims.shorter import student
from benchmarks.claims.small_transformers import heldout
from benchmarks.claims.storing import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "BK-SDM: blocks taken away by hand, and training with outputs and features of the teacher"
CLAIM = "More than 30 percent fewer weights with little data on one GPU."
STEPS, PICTURES = 150, 64


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, _ = digits(rng.seed)
    method = Shallow(2, Listed((1, 3)))
    small = method.apply(net, method.plan(net, probe), probe, rng)
    terms = ({}, {"output": 1.0}, {"output": 1.0, "features": 1.0})
    plain, outputs, both = (heldout(student(small, net, rng, STEPS, pictures=PICTURES, **more), rng) for more in terms)
    cut = heldout(small, rng)
    return [
        finding("velocities and tokens of the teacher (figure) against none", plain, both, cut, "no training"),
        finding("velocities and tokens of the teacher (figure) against velocities", outputs, both, cut, "no training"),
    ]
