"""Bytes that a step keeps for its backward pass, and W2 distance in a new style: a reader of all depths against
LoRA of at least as many numbers, and against a reader of the last block alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.side.reading import DepthReader
from benchmarks.claims.deltas import base, changed, distance, lora_of, numbers, tune
from benchmarks.claims.memory import kept_bytes
from benchmarks.claims.verdict import Finding

METHOD = "READ: a recurrent network over the depth of a frozen one"
CLAIM = "56% less training memory."


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    with rng.fork("reader").ambient():
        reader = with_backbone(base(seed), lambda net: DepthReader(net, 64, 16))
        last = with_backbone(base(seed), lambda net: LastReader(net, 64, 16))
    rival = changed(lora_of(numbers(reader), seed), seed)
    whole, x = copy.deepcopy(base(seed)).requires_grad_(True), torch.zeros(256, 2)
    held = [kept_bytes(net, x) for net in (rival, reader, whole)]
    reader, last, rival = (tune(net, seed) for net in (reader, last, rival))
    raw, lora = distance(base(seed), seed), distance(rival, seed)
    return [
        Finding(
            "bytes kept for a backward pass of 256 points: reader against 0.44 of LoRA",
            0.44 * held[0],
            held[1],
            held[2],
            "training of all weights",
        ),
        Finding("W2 to the new style: reader against LoRA", lora, distance(reader, seed), raw, "not adapted"),
        Finding(
            "W2 to the new style: reader against LoRA, twice as bad",
            2 * lora,
            distance(reader, seed),
            raw,
            "not adapted",
        ),
        Finding(
            "W2 to the new style: reader of all blocks against one of the last",
            distance(last, seed),
            distance(reader, seed),
            raw,
            "not adapted",
        ),
    ]


class LastReader(DepthReader):
    """A reader that sees the output of the last block only."""

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        with torch.no_grad():
            stages = self.field.stages(x, t, cond)  # type: ignore[operator]
            h = stages.h
            for block, told in zip(self.field.block, stages.told, strict=False):  # type: ignore[arg-type]
                h = block(h, *told)
        out: Tensor = stages.out(h + self.up(self.cell(self.down(h))), *stages.told[-1])
        return out
