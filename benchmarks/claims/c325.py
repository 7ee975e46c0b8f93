"""A flow of the ring with classes; one LoRA is trained on four of them in one style, another on the others in another
style. A gate of every row of every layer, which does not see the class, is trained on both and mixes the two, which
stay as they are. W2 distances within the classes after 150 steps."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.adapters.members.mixture import Task, Token, mixture
from benchmarks.claims.mixed import CLASSES, data, distance, expert, shares, tune, two_styles, whole
from benchmarks.claims.verdict import Finding

METHOD = "Audio-AdapterFusion: adapters of single tasks mixed by gates"
CLAIM = (
    "Gates that know no task are as good as the right adapter for every task, and better than finetuning all weights."
)


def measure(rng: bl.Rng) -> list[Finding]:
    seed, half = rng.seed, CLASSES // 2
    experts = [expert(seed, two_styles, c) for c in (range(half), range(half, CLASSES))]
    both = data(seed, two_styles)
    gated = tune(mixture(experts, Token(compete=True)), both, seed, rate=2e-2)
    full = tune(whole(seed), both, seed)
    oracle, mean = mixture(experts, Task(CLASSES)), mixture(experts)
    for change in shares(oracle):
        with torch.no_grad():
            change.numbers["gate/logits"][:half, :, 1] = -200
            change.numbers["gate/logits"][half:, :, 0] = -200
    found = {
        name: distance(net, seed, two_styles)
        for name, net in {"gated": gated, "full": full, "oracle": oracle, "mean": mean, "one": experts[0]}.items()
    }
    return [
        Finding("W2: gates without the class (figure) against all weights", found["full"], found["gated"],
                found["mean"], "equal shares"),
        Finding("W2: gates without the class (figure) against the right adapter for every class, 10% worse",
                1.1 * found["oracle"], found["gated"], found["mean"], "equal shares"),
        Finding("W2: gates without the class (figure) against equal shares", found["mean"], found["gated"],
                found["one"], "one adapter"),
    ]  # fmt: skip
