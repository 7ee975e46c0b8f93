"""Velocities of a small transformer of the digits whose four blocks share weights two by two, after 100 steps of
training on the states of its own sampling: with differences of rank 4 for each block (0.69 of the bytes) and without
(0.55), and two blocks less with the bytes of the latter.  Differences start as the nearest ones of their rank."""

from __future__ import annotations

import beeline as bl
from beeline.networks.compressing.prune import Shallow
from beeline.networks.compressing.recover import Recovered
from beeline.networks.compressing.removal.sharing import Share
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Relaxed recursive transformers: looped blocks with low-rank differences"
CLAIM = (
    "A looped model of half of the size recovers most of what the whole one does, with differences more than without."
)
STEPS = 100


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)

    def left(method: object, trained: bool = True) -> float:
        made = Recovered(method, steps=STEPS) if trained else method
        return change_of(made.apply(net, made.plan(net, probe), probe, rng), net, fresh)

    looped, relaxed, fewer = (left(method) for method in (Share(2), Share(2, 4), Shallow(2)))
    start, untrained = left(Share(2, 4), False), left(Share(2), False)
    return [
        finding("rank 4 (figure) against equal blocks", looped, relaxed, untrained, "equal blocks without training"),
        finding("rank 4: trained (figure) against not", start, relaxed, start, "no training"),
        finding("equal blocks (figure) against two blocks less, equal bytes", fewer, looped, untrained,
                "equal blocks without training"),
    ]  # fmt: skip
