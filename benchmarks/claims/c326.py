"""A flow of the ring of width 64 with a LoRA for a new style; 2,000 of its samples (20 Heun steps) train LoRAs of a
flow of width 96, and of the same flow, for 300 steps, without the data of the style. The filter of the paper is left
out."""

from __future__ import annotations

import functools
from typing import Any

import torch

import beeline as bl
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import LoRA
from benchmarks.claims.deltas import BASE, base, changed, distance, tune
from benchmarks.claims.toys import LINE, learn, network, points, sample
from benchmarks.claims.verdict import Finding

METHOD = "Trans-LoRA: a LoRA carried to another base by samples"
CLAIM = "Transfer by generated data loses nothing, and often improves on the old adapter."
STEPS, MADE = 300, 2000


@functools.cache
def wide(seed: int) -> Any:
    """A flow of the ring of width 96."""
    rng = bl.Rng(seed).fork("wide")
    return learn(network(rng, width=96), bl.objectives.FlowMatching(), points(rng), rng, steps=BASE)


def with_lora(field: Any, seed: int) -> Any:
    with bl.Rng(seed).fork("new").ambient():
        return adapted(field, LoRA(4))


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    old = tune(changed(LoRA(4), seed), seed, steps=STEPS)
    made = bl.Batch(sample(old, rng.fork("x0").normal(torch.empty(MADE, 2)), 20, solver=bl.solvers.HEUN))
    moved = tune(with_lora(wide(seed), seed), seed, made, STEPS)
    direct = tune(with_lora(wide(seed), seed), seed, steps=STEPS)
    again, other = (tune(with_lora(base(seed), seed), seed, d, STEPS) for d in (made, points(rng)))
    raw = distance(wide(seed), seed)
    state = LINE.point(rng.fork("noise").normal(made.x1), made.x1, rng.fork("t").uniform(MADE, made.x1))
    t = rng.fork("t").uniform(MADE, made.x1)

    @torch.no_grad()
    def cosine(net: Any) -> float:
        a, b = (f(state.x, t) - base(seed)(state.x, t) for f in (old, net))
        return float((a * b).sum() / (a.norm() * b.norm()))

    trivial = "the wider flow without a LoRA"
    return [
        Finding("W2 to the style, wider flow: from samples (figure) against from the data, 20% worse",
                1.2 * distance(direct, seed), distance(moved, seed), raw, trivial),
        Finding("W2 to the style: the wider flow from samples (figure) against the old one with its LoRA",
                distance(old, seed), distance(moved, seed), raw, trivial),
        Finding("same flow: cosine of both changes of the velocity, against 0.95", 0.95, cosine(again), cosine(other),
                "a LoRA trained on the ring", "higher"),
    ]  # fmt: skip
