"""Digits of 8 x 8 pixels, a network of four blocks: mean distance of the edges of 128 samples from those of held-out
digits. A copy of all blocks says which visits matter; two cheap blocks are then trained at these, or at the others."""

from __future__ import annotations

import beeline as bl
from beeline.networks.controls.branches import ControlBranch, RelaCtrl
from beeline.networks.controls.hints import Edges
from beeline.networks.controls.relevance import most_relevant, relevance
from benchmarks.claims.controls import base, errors, numbers, taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "RelaCtrl: cheap blocks at relevant visits"
CLAIM = "Blocks at the visits that matter most control as well as a whole branch, with 15% of its numbers."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, hints = rng.seed, {"hint": Edges()}
    branch = taught(seed, ControlBranch(4), Edges())
    found = relevance(branch, lambda field: errors(field, seed, hints)[0])
    best = most_relevant(found, 2)
    others = tuple(k for k in found if k not in best)
    chosen, worse = (taught(seed, RelaCtrl(places), Edges()) for places in (best, others))
    none, whole, few, rest = (errors(f, seed, hints)[0] for f in (base(seed), branch, chosen, worse))
    return [
        finding("error of edges: two visits that matter most (figure) against the other two", rest, few, none,
                "no control"),
        finding("error of edges: two visits that matter most (figure) against the whole branch", whole, few, none,
                "no control"),
        finding("trained numbers: two cheap blocks (figure) against 15% of the branch",
                0.15 * numbers(branch), numbers(chosen), numbers(branch), "the branch"),
    ]  # fmt: skip
