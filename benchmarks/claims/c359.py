"""The ring with overlapping classes and a trained teacher at guidance scale two. A low-rank change (rank four) of the
linear layers of the frozen network, merged after 300 steps, against training all weights as long; error of the
velocity at states of guided sampling. The share of trained weights is that of peft."""

from __future__ import annotations

import beeline as bl
from beeline.distillation.guided.students import IntoLoRA, IntoNetwork
from benchmarks.claims.games import shared
from benchmarks.claims.guided import CONTROL, distilled, states, teacher, velocity_error
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LoRA-enhanced distillation of guidance"
CLAIM = "A low-rank change of the frozen network learns the guided velocity with a fraction of the trained weights."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow = teacher(rng)
    at = states(flow, rng.fork("held"))
    plain = velocity_error(flow.field, flow, at)
    low, full = (velocity_error(distilled(into, flow, rng), flow, at) for into in (IntoLoRA(4), IntoNetwork()))
    trained = sum(p.numel() for p in IntoLoRA(4).build(flow).parameters() if p.requires_grad)
    share = trained / sum(p.numel() for p in flow.field.parameters())
    return [
        finding("velocity at guided states: low rank (figure) against no guidance", plain, low, plain, CONTROL),
        finding("velocity at guided states: low rank (figure) against all weights, 10% worse", 1.1 * full, low, plain,
                CONTROL),
        finding("share of trained weights: low rank (figure) against half", 0.5, share, 1.0, "all weights"),
    ]  # fmt: skip
