"""A small transformer of digits moved to turned pictures: all output projections of attention are trained, against
LoRA of equal count; bytes of a training step; a change of full rank of one projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.factors import floor
from beeline.networks.adapters.members.sparse import Sparse
from benchmarks.claims.beside import against, turned, with_part
from benchmarks.claims.controls import numbers
from benchmarks.claims.deltas import fitted
from benchmarks.claims.memory import kept_bytes
from benchmarks.claims.small_transformers import digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "APLA: only output projections of attention"
CLAIM = "As good as other small changes, with up to 52.63% less memory and 43.0% less training time."
WHOLE, PROJECTIONS, LAYERS = Sparse(1.0, columns=True), ("mix.out",), ("qkv", "mix.out", "mlp.0")


def measure(rng: bl.Rng) -> list[Finding]:
    seed, x1 = rng.seed, digits()[0].x1[:64]
    apla, lora, full = (
        training_bytes(with_part(seed, part, layers), x1)
        for part, layers in ((WHOLE, PROJECTIONS), (LoRA(3), LAYERS), (None, ()))
    )
    w = rng.fork("w").normal(torch.empty(32, 32)) / 32**0.5
    target = w + rng.fork("change").normal(torch.empty(32, 32)) / 32
    rank = WHOLE.start(w)["coefficients"].numel() // 64
    return [
        against("projections against LoRA", seed, WHOLE, LoRA(3), turned, layers=(PROJECTIONS, LAYERS)),
        finding("bytes of a step of 64 pictures: projections against 0.4737 of LoRA", 0.4737 * lora, apla, full,
                "all weights"),
        finding("bytes of a step of 64 pictures: projections against LoRA", lora, apla, full, "all weights"),
        finding("error on a change of full rank of a projection, against the floor of LoRA of equal count",
                floor(target - w, rank), fitted(WHOLE, w, target, rng.fork("fit")), 1.0, "no change"),
    ]  # fmt: skip


def training_bytes(net: nn.Module, x1: Tensor) -> float:
    """Bytes of a training step beside the weights: what the backward pass needs, gradients, and moments of AdamW."""
    return kept_bytes(net, x1) + 3 * 4 * numbers(net)
