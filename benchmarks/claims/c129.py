"""Digits of 8 x 8 pixels under a text: the mean of the vectors of those of its words that the encoder knows, the names
of ten digits. A planner with fixed rules rewrites texts before the encoder. Largest difference of samples, and share of
300 samples of the class that a text means, for texts such as "half of a dozen"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import beeline as bl
from benchmarks.claims.contexts import CLASSES, SIZE, TABLE, base, drawn, share
from benchmarks.claims.verdict import Finding

METHOD = "from reality to fantasy: a planner of texts before the encoder"
CLAIM = "A planner that says an unusual text in usual words makes a frozen flow draw it, without training."
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNUSUAL = ("nothing at all", "a lonely stick", "a pair of swans", "a trio", "sides of a square", "fingers of a hand",
           "half of a dozen", "days of a week", "legs of a spider", "lives of a cat")  # fmt: skip
COUNT = 300


def encoded(texts: Sequence[str]) -> Tensor:
    """The condition of texts [B,16]; zeros where no word is known."""
    rows = [[TABLE[NAMES.index(word)] for word in text.split() if word in NAMES] for text in texts]
    return torch.stack([torch.stack(row).mean(0) if row else torch.zeros(SIZE) for row in rows])


def planned(texts: Sequence[str]) -> list[str]:
    """Texts in usual words; those without a rule stay as they are."""
    rules = dict(zip(UNUSUAL, NAMES, strict=True))
    return [rules.get(text, text) for text in texts]


def swapped(texts: Sequence[str]) -> list[str]:
    """The plan of the next text."""
    return [NAMES[(NAMES.index(text) + 1) % CLASSES] for text in planned(texts)]


def measure(rng: bl.Rng) -> list[Finding]:
    flow, label = base(rng.seed), torch.arange(COUNT) % CLASSES

    def made(texts: Sequence[str], plan: Callable[[Sequence[str]], Sequence[str]] = list) -> Tensor:
        return drawn(flow, {"context": encoded(plan(texts))}, rng, COUNT)

    usual, unusual = ([names[k] for k in label.tolist()] for names in (NAMES, UNUSUAL))
    plain = made(usual)
    return [
        Finding("largest difference of samples of usual texts with and without a plan, against the smallest of float32",
                1e-6, float((made(usual, planned) - plain).abs().max()),
                float((made(usual, swapped) - plain).abs().max()), "plans of other texts"),
        Finding("share of the class of an unusual text: planned against as it is",
                share(made(unusual), label), share(made(unusual, planned), label),
                share(made(unusual, swapped), label), "plans of other texts", "higher"),
    ]  # fmt: skip
