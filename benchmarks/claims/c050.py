"""Held-out loss of digits of 8 x 8 pixels after equal training, 100 steps: a network of three blocks with a tape of
at most 4 tokens of 32 before the second block, against the same without a tape, and one whose tape always has 4
tokens. The tape ends where its largest weights add up to 1.2. The paper's parity task is not measured."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.networks.transformer.layout import collected_notes
from beeline.networks.transformer.plans.tape import Tape
from beeline.objectives.alignment import Noted
from benchmarks.claims.small_transformers import MATCHING, digits, heldout, plain, same, trained, transformer
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "AdaTape: a variable number of tape tokens"
CLAIM = "Tokens that are read from a bank, as many as a datum needs, are better at equal cost."


def measure(rng: bl.Rng) -> list[Finding]:
    rng = same(rng)
    without = plain(rng.seed, 3)
    tape = trained(transformer(rng, depth=3, plan=Tape(32, 4, 1.2)), rng, Noted(MATCHING, {"ponder": 0.01}))
    fixed = trained(transformer(rng, depth=3, plan=Tape(32, 4, 4.0)), rng)
    with collected_notes() as seen, torch.no_grad():
        tape(digits()[1].x1, torch.full((len(digits()[1].x1),), 0.5))
    read = float(next(value for name, value in seen[0].items() if name.endswith("tape_tokens")))
    first, (a, b, c) = heldout(transformer(rng), rng), (heldout(net, rng) for net in (without, tape, fixed))
    return [
        finding("with a tape (figure) against without", a, b, first),
        finding("a tape of variable length (figure) against four tokens always", c, b, first),
        finding("tokens that are read at t = 0.5 (figure) against the most, 4", 4.0, read, 4.0, "all of them"),
    ]
