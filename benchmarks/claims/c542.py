"""Error of LoRA in two of six layers of a network whose target differs in two: chosen by trained gates, and at
random."""

from __future__ import annotations

import copy
import itertools
from statistics import fmean

import torch

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA, changed_layers
from beeline.networks.adapters.members.chosen import Gated, gates
from beeline.networks.mlp import MLP
from benchmarks.claims.verdict import Finding

METHOD = "DiffoRA: trained gates choose the layers with LoRA"
CLAIM = "No number in the abstract; the best accuracy among adapters of equal size."
LAYERS, CHOSEN, STEPS = 6, 2, 150


def measure(rng: bl.Rng) -> list[Finding]:
    with rng.fork("network").ambient():
        base = MLP(2, width=24, depth=LAYERS)
        for p in base.parameters():
            p.data += 0.2 * torch.randn_like(p)
    target = copy.deepcopy(base)
    planted = sorted(rng.fork("planted").permutation(LAYERS)[:CHOSEN].tolist())
    for k in planted:
        w = target.block[k].out.weight  # type: ignore[union-attr]
        w.data += 0.5 * rng.fork("change", k).normal(w.data)  # type: ignore[operator, arg-type]
    x, t = rng.fork("x").normal(torch.empty(256, 2)), rng.fork("t").uniform(256, torch.empty(0))
    wanted = target(x, t).detach()
    size = float((base(x, t) - wanted).square().mean())

    def fitted(net: Adapted, steps: int) -> tuple[Adapted, float]:
        adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(steps):
            loss = (net(x, t) - wanted).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return net, float((net(x, t) - wanted).square().mean().detach()) / size

    def lora(layers: list[int]) -> float:
        with rng.fork("start").ambient():
            return fitted(Adapted(copy.deepcopy(base), LoRA(4), [f"block.{k}.out" for k in layers]), STEPS)[1]

    with rng.fork("gates").ambient():
        searched = fitted(Adapted(copy.deepcopy(base), Gated(LoRA(4), temperature=0.1)), STEPS // 2)[0]
    assert len(changed_layers(searched)) == LAYERS
    best = [int(name.split(".")[1]) for name in list(gates(searched))[:CHOSEN]]
    others = fmean(
        lora(list(pair)) for pair in itertools.islice(itertools.combinations(range(LAYERS), CHOSEN), 0, 15, 2)
    )
    return [
        Finding(
            "relative squared error: layers by gates against the mean of pairs", others, lora(best), 1.0, "no change"
        ),
        Finding(
            "layers that differ among those chosen, against one of two",
            1.0,
            float(len({*best} & {*planted})),
            0.0,
            "none",
            "higher",
        ),
    ]
