"""A LoRA trained on one mode of the ring and merged with a negative weight: the share of this mode in samples, and the
W2 distance to the other modes."""

from __future__ import annotations

import beeline as bl
from beeline.networks.adapters.adapted import merged
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.merges import Sum, merged_networks
from benchmarks.claims.deltas import base, modes, tests, tuned_on
from benchmarks.claims.toys import sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Composing parameter-efficient modules by arithmetic"
CLAIM = "Negation unlearns and addition multitasks, without training."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    x0, real, _ = tests(seed)
    one = merged(tuned_on(seed, (0,), LoRA(4)))
    made = {
        w: sample(merged_networks(net, [one], Sum(), [w]), x0, 20, solver=bl.solvers.HEUN) for w in (-0.5, 0.0, 0.5)
    }
    share = {w: float((modes(x) == 0).float().mean()) for w, x in made.items()}
    others = real[modes(real) != 0]
    apart = {w: w2(x[: len(others)], others) for w, x in made.items()}
    return [
        Finding("share of a mode in samples: its LoRA with weight -0.5 (figure) against the flow", share[0.0],
                share[-0.5], share[0.5], "weight 0.5"),
        Finding("W2 to the other modes: weight -0.5 (figure) against the flow", apart[0.0], apart[-0.5], apart[0.5],
                "weight 0.5"),
    ]  # fmt: skip
