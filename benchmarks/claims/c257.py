"""Digits of 8 x 8 pixels: mean distance of the edges of 128 samples from those of held-out digits after equal steps of
training. The network itself is not trained, and the features start with the factor 0."""

from __future__ import annotations

import beeline as bl
from beeline.networks.controls.branches import ControlBranch
from beeline.networks.controls.features import ControlNeXt
from beeline.networks.controls.hints import Edges
from benchmarks.claims.controls import STEPS, base, errors, numbers, taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ControlNeXt: one place, cross normalisation"
CLAIM = "At most a tenth of the trained numbers of a copied branch, and faster convergence."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, hints = rng.seed, {"hint": Edges()}
    branch, next_ = (taught(seed, control, Edges()) for control in (ControlBranch(4), ControlNeXt(24)))
    short = taught(seed, ControlNeXt(24), Edges(), steps=STEPS // 2)
    none, copied, light, half = (errors(f, seed, hints)[0] for f in (base(seed), branch, next_, short))
    return [
        finding("error of edges: ControlNeXt (figure) against a copy of all blocks", copied, light, none, "no control"),
        finding("error of edges after half of the steps: ControlNeXt (figure) against the copy after all of them",
                copied, half, none, "no control"),
        finding("trained numbers: ControlNeXt (figure) against a tenth of those of the copy",
                numbers(branch) / 10, numbers(next_), numbers(branch), "the copy"),
    ]  # fmt: skip
