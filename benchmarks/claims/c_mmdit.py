"""Digits of 8 x 8 pixels with their labels, patches of 2 x 2, width 32, 150 steps: two joint blocks of image and label
tokens against four blocks of one stream that the label modulates (adaLN-zero), which have as many weights.  The label
is one token, so that the streams can tell each other little; texts are not measured."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT, MMDiT
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

METHOD = "MM-DiT: joint blocks"
CLAIM = "Separate weights for image and condition with joint attention are better than modulation alone."
SEEDS = 3
PLAIN = bl.objectives.FlowMatching()


def measure(rng: bl.Rng) -> list[Finding]:
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    batches = [modality.encode(part) for part in (raw, held)]
    data, test = (bl.Batch(batch.x1.float(), cond=batch.cond) for batch in batches)

    def network(kind: Any, depth: int) -> Any:
        with rng.fork("network").ambient():
            return kind((1, 8, 8), width=32, depth=depth, heads=2, conditions={"label": {"classes": 10}})

    def loss(net: Any) -> float:
        with torch.no_grad():
            return float(PLAIN(bl.Network(net), test, rng.fork("test")).value)

    joint, single = (
        loss(learn(network(kind, depth), PLAIN, data, rng.fork("fit"), steps=150, batch_size=64))
        for kind, depth in ((MMDiT, 2), (DiT, 4))
    )
    first = loss(network(DiT, 4).eval())
    return [finding("held-out loss: joint blocks (figure) against modulation alone", single, joint, first)]
