"""A small transformer of the digits loses three quarters of its heads and hidden channels in 80 steps of training: they
fade in three periods, against parts with the smallest weights that are taken away at once before equal training.
The learning rate falls to zero, or is constant."""

from __future__ import annotations

import copy

import beeline as bl
from benchmarks.claims.slimming import at_once, base, difference, fading, loss, slim, tune
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "HESSO: groups that shrink to zero in periods of training"
CLAIM = "Shrinking the least important groups step by step while training prevents the collapse of removal at once."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    few = at_once(net)
    ready = tune(fading(net, seed), seed)
    small = slim(ready)
    return [
        finding("loss with a quarter of the parts: fading (figure) against taken away at once, then trained",
                loss(tune(copy.deepcopy(few).requires_grad_(True), seed), seed), loss(small, seed), loss(few, seed),
                "at once, without training"),
        finding("the same at a constant learning rate",
                loss(tune(copy.deepcopy(few).requires_grad_(True), seed, constant=True), seed),
                loss(slim(tune(fading(net, seed), seed, constant=True)), seed), loss(few, seed),
                "at once, without training"),
        finding("at the falling rate, against 1.05 times the loss of the whole network, trained as long",
                1.05 * loss(tune(copy.deepcopy(net).requires_grad_(True), seed), seed), loss(small, seed),
                loss(few, seed), "at once, without training"),
        finding("change of velocities when what has faded is taken away, against 1e-5", 1e-5,
                difference(small, ready, seed), difference(few, net, seed), "what has not faded"),
    ]  # fmt: skip
