"""A small transformer of the digits learns turned digits by LoRA of rank 4 in 80 steps and loses 70% of its heads and
hidden channels: they fade with their rows and columns of the factors, against parts with the smallest weights that are
taken away at once before LoRA of the same rank is trained. The weights of the base are frozen; the result is a plain
small network."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA
from benchmarks.claims.slimming import at_once, base, difference, fading, loss, slim, tune, turned
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Structured adapters: factors of a LoRA that lose rows and columns with the network"
CLAIM = "With most of the network removed they keep more accuracy than finetuning, with fewer learned weights."
SHARE, RANK, RATE = 0.3, 4, 1e-2


def numbers(net: Any) -> int:
    """Numbers of adapters."""
    return sum(p.numel() for name, p in net.named_parameters() if ".changes." in name)


def with_lora(net: bl.Network, seed: int) -> bl.Network:
    with bl.Rng(seed).fork("delta").ambient():
        net.backbone = Adapted(net.backbone, LoRA(RANK))
    return net


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    few = at_once(net, SHARE)
    ready = tune(fading(net, seed, LoRA(RANK), share=SHARE), seed, turned, rate=RATE)
    small = slim(ready)
    after = tune(with_lora(at_once(net, SHARE), seed), seed, turned, rate=RATE)
    return [
        finding("loss on turned digits with 30% of the parts: fading with a LoRA (figure) against taken away at once, "
                "then LoRA", loss(after, seed, turned), loss(small, seed, turned), loss(few, seed, turned),
                "at once, without training"),
        finding("numbers that are trained: fading with a LoRA (figure) against LoRA after the removal", numbers(after),
                numbers(ready), sum(p.numel() for p in net.parameters()), "all weights"),
        finding("change of velocities when the rest of the factors is merged and the others go, against 1e-5", 1e-5,
                difference(small, ready, seed), difference(few, net, seed), "what has not faded"),
    ]  # fmt: skip
