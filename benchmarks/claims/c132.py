"""Pictures of stripes and a small transformer with two adapters of rank 4, for bright and for dark dots on the whole
picture. Samples from noise with one concept in each half: adapters with regions, both or one of them without regions,
and halves of two samples that are pasted together. The regions are given; boxes from the attention to words, the losses
that isolate them and new noise in boxes are left out, as the network knows no text. Error of the dots in a sample, in
units of their height."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.low_rank import with_adapters
from benchmarks.claims.attended import SAMPLER, trained
from benchmarks.claims.c393 import DOTS, LEFT, concept
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "LoRA-Composer: several adapters by region while sampling"
CLAIM = "Adapters that act in regions of their own make several concepts in one picture without further training."
SEEDS, MADE = 3, 32


def dots(x: Tensor) -> Tensor:
    """The height of the dots above their neighbours of the same stripe, for both halves [B,2], in units of a dot."""
    on, half = DOTS > 0, LEFT > 0
    least = []
    for side in (half, ~half):
        inside, outside = x[:, 0, on & side].mean(1), x[:, 0, ~on & side].mean(1)
        least.append((inside - outside) / DOTS.max())
    return torch.stack(least, 1)


def measure(rng: bl.Rng) -> list[Finding]:
    flow, label = trained(rng.seed), torch.arange(MADE) % 2
    cond: Any = {"label": label}
    both = [concept(rng.seed, sign) for sign in (1.0, -1.0)]
    x0 = rng.fork("x0").normal(torch.empty(MADE, 1, 8, 8))

    def made(masks: Any = None, adapters: Any = both) -> Tensor:
        given = None if masks is None else [m[::2, ::2].expand(MADE, 4, 4) for m in masks]  # of tokens
        with torch.no_grad():
            field = with_adapters(flow.field, adapters, given) if adapters else flow.field
            return SAMPLER(bl.Flow(field, null=flow.null), x0, cond)

    with torch.no_grad():
        before = dots(made(adapters=[]))

    def error(x: Tensor) -> float:
        return float((dots(x) - before - torch.tensor([1.0, -1.0])).abs().mean())

    plain = made(adapters=[])
    one, two = made(adapters=both[:1]), made(adapters=both[1:])
    pasted = one * LEFT + two * (1 - LEFT)
    regions = error(made((LEFT, 1 - LEFT)))
    trivial = "no adapter"
    return [
        finding("error of the dots: regions (figure) against both everywhere", error(made()), regions, error(plain),
                trivial),
        finding("error of the dots: regions (figure) against one everywhere", error(one), regions,
                error(made((1 - LEFT, LEFT))), "exchanged regions"),
        finding("error of the dots: regions (figure) against halves of two samples pasted, 20% worse",
                1.2 * error(pasted), regions, error(plain), trivial),
    ]  # fmt: skip
