"""The ring with overlapping classes and a trained teacher at guidance scale two. Adapters with 12% of the weights
behind the blocks of the frozen network, trained on states of guided sampling or on noised data; error of the
velocity at states of guided sampling, and W2 distance to exactly guided samples at eight evaluations."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.distillation.guided.students import IntoAdapters
from benchmarks.claims.c142 import guided
from benchmarks.claims.games import shared
from benchmarks.claims.guided import CONTROL, by_teacher, distilled, drawn, states, teacher, velocity_error
from benchmarks.claims.toys import CLASSES, finding, noise, w2
from benchmarks.claims.verdict import Finding

METHOD = "Adapter guidance distillation (AGD)"
CLAIM = "Small adapters learn guidance in one pass, and better on states of guided sampling than on noised data."
SEEDS = 3


def measure(rng: bl.Rng) -> list[Finding]:
    rng = shared(rng)
    flow = teacher(rng)
    at, x0 = states(flow, rng.fork("held")), noise(rng)
    on, off = (distilled(IntoAdapters(8), flow, rng, rollout=n) for n in (8, 0))
    plain = velocity_error(flow.field, flow, at)
    errors = [velocity_error(net, flow, at) for net in (on, off)]
    wanted = guided(CLASSES.field(), x0, {"label": torch.arange(len(x0)) % 8}, 60)
    one, half = w2(drawn(on, flow, x0, 8), wanted), w2(by_teacher(flow, x0, 4), wanted)
    unguided = w2(drawn(flow.field, flow, x0, 8), wanted)
    return [
        finding("velocity at guided states: adapters (figure) against no guidance", plain, errors[0], plain, CONTROL),
        finding("velocity at guided states: trained there (figure) against noised data", errors[1], errors[0], plain,
                CONTROL),
        finding("W2, 8 evaluations: adapters (figure) against guidance in 4 steps", half, one, unguided, CONTROL),
    ]  # fmt: skip
