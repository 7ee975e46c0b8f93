"""Digits of 8 x 8 pixels, three blocks: width 16 is trained for 120 steps, grown to width 32, and trained for 60 steps
more.  The held-out loss right after growth is compared with the one before it and with a network whose new channels are
zeros (LayerNorm is not preserved), the loss at the end with a network of width 32 from the start, trained for 90 steps,
whose multiply-adds are about as many."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.growing.grow import grow
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "Function-preserving growth"
CLAIM = "A trained network grows without a change of its function, and growth saves compute."
SEEDS = 3


def padded(net: Any, large: Any) -> Any:
    """The large network with the weights of the small one in the first channels, and zeros."""
    with torch.no_grad():
        for old, new in zip(net.parameters(), large.parameters(), strict=True):
            new.zero_()[tuple(slice(n) for n in old.shape)] = old
    return large


def measure(rng: bl.Rng) -> list[Finding]:
    small = trained(transformer(rng, width=16), rng)
    before = held_loss(small, rng)
    made = bl.Network(grow(small.backbone, rng, width=32))
    naive = padded(small, transformer(rng, width=32, heads=4))
    jump = [abs(held_loss(net, rng) - before) for net in (naive, made)]
    end = held_loss(trained(made, rng.fork("more"), steps=60), rng)
    scratch = held_loss(trained(transformer(rng, width=32, heads=4), rng, steps=90), rng)
    return [
        finding("change of the loss: growth (figure) against channels of zeros", *jump, jump[0], "zeros"),
        finding("loss after equal compute: growth (figure) against the large network from the start", scratch, end,
                before, "the small network"),
    ]  # fmt: skip
