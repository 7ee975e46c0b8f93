"""W2 distance in a new style of a flow of eight blocks: two layers of LoRA trained at a time, drawn by importance,
drawn evenly, and all of them."""

from __future__ import annotations

import functools
from typing import Any

import torch

import beeline as bl
from beeline.distillation.personal.layers import SampledLayers
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import LoRA
from beeline.networks.mlp import MLP
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import WarmupCosine
from benchmarks.claims.deltas import restyled, tests
from benchmarks.claims.toys import learn, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "IST: layers sampled by importance"
CLAIM = "Less memory and better quality than uniform updates."
STEPS, COUNT = 200, 2


def measure(rng: bl.Rng) -> list[Finding]:
    data, objective = bl.Batch(restyled(points(rng).x1)), bl.objectives.FlowMatching()
    x0, _, wanted = tests(rng.seed)

    @torch.no_grad()
    def loss(net: torch.nn.Module) -> float:
        return float(objective(net, bl.Batch(data.x1[:256]), rng.fork("importance")).value)

    def distance(callbacks: Any) -> float:
        with rng.fork("start").ambient():
            net = adapted(base(rng.seed), LoRA(4))
        how = Training(steps=STEPS, batch_size=256, lr=WarmupCosine(5e-3, 20), ema=None)
        made = fit(net, objective, data, how, rng=rng.fork("tune"), log=lambda entry: None, callbacks=callbacks)
        return w2(sample(made.eval(), x0, 20, solver=bl.solvers.HEUN), wanted)

    every = distance(())
    even = distance([SampledLayers(loss, COUNT, rng.fork("layers"), trials=0)])
    chosen = distance([SampledLayers(loss, COUNT, rng.fork("layers"), every=10, trials=3)])
    raw = w2(sample(base(rng.seed), x0, 20, solver=bl.solvers.HEUN), wanted)
    return [
        Finding(
            f"W2 to the new style: {COUNT} of 8 layers by importance against drawn evenly",
            even,
            chosen,
            raw,
            "not adapted",
        ),
        Finding("W2 to the new style: by importance against all layers", every, chosen, raw, "not adapted"),
    ]


@functools.cache
def base(seed: int) -> Any:
    """A deeper flow of the ring."""
    rng = bl.Rng(seed).fork("deep base")
    with rng.fork("network").ambient():
        net = bl.Network(MLP(2, width=48, depth=8))
    return learn(net, bl.objectives.FlowMatching(), points(rng), rng, steps=400)
