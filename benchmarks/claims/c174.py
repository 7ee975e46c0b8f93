"""Digits of 8 x 8 pixels, eight blocks of width 32: the held-out loss after 60 steps with one gate a branch, 0 at
first, with gates that stay 1, and with the gates of adaLN-zero."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from beeline.networks.transformer.blocks import AdaLNZero, ReZero, ScalarGates
from benchmarks.claims.fed import held_loss, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "ReZero: gates of one number"
CLAIM = "Gates that start at zero make deep networks converge faster."
SEEDS = 3


def open_gates(net: Any) -> Any:
    """The network with gates of 1 that do not learn."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, ScalarGates):
                module.gate.fill_(1).requires_grad_(False)
    return net


def measure(rng: bl.Rng) -> list[Finding]:
    def made(modulation: Any) -> Any:
        return transformer(rng, depth=8, modulation=modulation)

    one, zero, ada = (
        held_loss(trained(net, rng, steps=60), rng)
        for net in (open_gates(made(ReZero())), made(ReZero()), made(AdaLNZero()))
    )
    first = held_loss(made(ReZero()), rng)
    return [
        finding("gates from 0 (figure) against gates of 1", one, zero, first),
        finding("gates from 0 (figure) against adaLN-zero", ada, zero, first),
    ]
