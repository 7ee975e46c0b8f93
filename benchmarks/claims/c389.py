"""Digits of 8 x 8 pixels, three blocks of eight experts, two active: the held-out loss after 120 steps, and the largest
load of an expert over the mean one on held-out data, minus 1, as a mean over blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.transformer.experts import Experts, Mixture
from beeline.networks.transformer.routers import BiasBalanced, TopK
from benchmarks.claims.fed import PLAIN, held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Loss-free balancing of experts"
CLAIM = "A bias on the choice of experts balances their loads without a term in the loss, and the model is better."


def excess(net: Any, rng: bl.Rng) -> float:
    """The largest load over the mean, minus 1."""
    found: list[float] = []

    def seen(module: Any, given: Any, out: Any) -> None:
        load: Tensor = torch.bincount(out.chosen.flatten(), minlength=8).double()
        found.append(float(load.max() / load.mean()) - 1)

    hooks = [m.route.register_forward_hook(seen) for m in net.modules() if isinstance(m, Mixture)]
    held_loss(net, rng)
    for hook in hooks:
        hook.remove()
    return sum(found) / len(found)


def measure(rng: bl.Rng) -> list[Finding]:
    term = bl.objectives.Noted(PLAIN, {"balance": 0.01})
    first = transformer(rng, feed=Experts(8, TopK(2)))
    free = trained(transformer(rng, feed=Experts(8, TopK(2))), rng)
    paid = trained(transformer(rng, feed=Experts(8, TopK(2))), rng, term)
    bias = trained(transformer(rng, feed=Experts(8, BiasBalanced(2, rate=0.01))), rng)
    lost = [held_loss(net, rng) for net in (paid, bias, first)]
    return [
        finding("excess load: bias (figure) against no balancing", excess(free, rng), excess(bias, rng),
                excess(free, rng), "no balancing"),
        finding("excess load: bias (figure) against a term in the loss", excess(paid, rng), excess(bias, rng),
                excess(free, rng), "no balancing"),
        finding("held-out loss: bias (figure) against a term in the loss", *lost),
    ]  # fmt: skip
