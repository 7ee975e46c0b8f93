"""W2 distance in a new style: modulations first and then columns chosen by a Taylor score, against columns at
random, one stage of columns, and LoRA of at least as many numbers."""

from __future__ import annotations

from typing import Any

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.inside import with_backbone
from beeline.networks.adapters.members.low_rank import Difference
from beeline.networks.adapters.members.sparse import Sparse
from beeline.networks.adapters.starts import placed
from benchmarks.claims.deltas import base, changed, distance, numbers, restyled, tune
from benchmarks.claims.toys import points
from benchmarks.claims.verdict import Finding

METHOD = "two stages: modulations, then columns by a Taylor score"
CLAIM = "The best mean over 19 tasks."
FIRST, SECOND = 50, 100  # steps


def measure(rng: bl.Rng) -> list[Finding]:
    seed, data = rng.seed, bl.Batch(restyled(points(rng).x1))

    def first() -> Any:
        return tune(inside(base(seed), Difference(), ["tell"], rng), seed, steps=FIRST, name="first")

    def columns(net: Any, chosen: bool) -> Any:
        made = inside(net, Sparse(0.1, columns=True), ["block.0.out", "block.1.out", "block.2.out"], rng)
        if chosen:
            placed(
                made, lambda i: objective(made, bl.Batch(data.x1[i * 256 : (i + 1) * 256]), rng.fork("score", i)).value
            )
        return made

    objective = bl.objectives.FlowMatching()
    two = columns(first(), True)
    count = numbers(two)
    chosen = distance(tune(two, seed, steps=SECOND, name="second"), seed)
    random = distance(tune(columns(first(), False), seed, steps=SECOND, name="second"), seed)
    one = distance(tune(columns(base(seed), True), seed, steps=FIRST + SECOND, name="second"), seed)
    tell = numbers(inside(base(seed), Difference(), ["tell"], rng))
    rank = max(1, round((count + tell) / numbers(changed(LoRA(1), seed))))
    lora = distance(tune(changed(LoRA(min(rank, 64)), seed), seed, steps=FIRST + SECOND, name="second"), seed)
    raw = distance(base(seed), seed)
    return [
        Finding(
            "W2 to the new style: columns by the score against columns at random", random, chosen, raw, "not adapted"
        ),
        Finding("W2 to the new style: two stages against the columns alone", one, chosen, raw, "not adapted"),
        Finding(
            f"W2 to the new style: two stages against LoRA of rank {min(rank, 64)}", lora, chosen, raw, "not adapted"
        ),
    ]


def inside(net: Any, delta: Any, layers: list[str], rng: bl.Rng) -> Any:
    """A copy of a network whose backbone is changed by one more delta, and by it alone in training."""
    with rng.fork("inside", repr(delta)).ambient():
        return with_backbone(net, lambda inner: Adapted(inner, delta, layers))
