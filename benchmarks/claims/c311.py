"""Digits of 8 x 8 pixels: mean distance of the blurred pictures of 128 samples from those of held-out digits, and
processor seconds of their 16 evaluations with keys and values of the hint kept or computed in each of them."""

from __future__ import annotations

import time

import torch

import beeline as bl
from beeline.networks.controls.hints import Blur
from beeline.networks.controls.tokens import EasyControl
from beeline.networks.controls.with_control import controls_of
from benchmarks.claims.controls import COUNT, STEPS, base, digits, drawn, errors, numbers, taught
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "EasyControl: tokens of hints with kept keys and values"
CLAIM = "Tokens of a hint with a LoRA control a frozen transformer; kept keys and values make them cheap."


def measure(rng: bl.Rng) -> list[Finding]:
    seed, hints = rng.seed, {"hint": Blur()}
    field = taught(seed, EasyControl(), Blur(), steps=2 * STEPS)
    none, found = (errors(f, seed, hints)[0] for f in (base(seed), field))
    cond = {"control": Blur()(digits()[1].x1[:COUNT])}

    def seconds(kept: bool) -> float:
        net = controls_of(field)["hint"]
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            if kept:
                drawn(field, seed, cond)
            else:
                with torch.no_grad():
                    x = digits()[1].x1[:COUNT]
                    for _ in range(16):
                        net.memory.entries = ()
                        field(x, torch.full((COUNT,), 0.5), cond)
            best = min(best, time.process_time() - begin)
        return best

    return [
        finding("error of the blurred picture: tokens of the hint (figure) against none", none, found, none,
                "no control"),
        finding("seconds of 16 evaluations: kept keys and values (figure) against computed ones", seconds(False),
                seconds(True), seconds(False), "computed ones"),
        finding("trained numbers (figure) against those of the network", numbers(base(seed)), numbers(field),
                numbers(base(seed)), "all of the network"),
    ]  # fmt: skip
