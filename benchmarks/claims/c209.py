"""Digits of 8 x 8 pixels: share of 300 samples of the class of the held-out digit that an encoder turns into the
condition. It was trained through a frozen flow by the flow loss on digits as their own references, which are moved by
a pixel and made weaker; a second flow of other weights knows the same conditions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.core.types import Batch, Loss
from benchmarks.claims.contexts import MATCHING, TABLE, Encoded, base, digits, drawn, encoder_of, labels, share
from benchmarks.claims.toys import learn
from benchmarks.claims.verdict import Finding

METHOD = "Prompt-Free Diffusion: a picture in place of the text"
CLAIM = "An encoder of pictures that was trained with one frozen flow serves others with the same conditions."
COUNT, STEPS = 300, 600


def weakened(x: Tensor, rng: bl.Rng) -> Tensor:
    """Pictures moved by up to a pixel, with less contrast."""
    rows, columns = (int(rng.fork(k).integers(3, 1)) - 1 for k in range(2))
    contrast = 0.6 + 0.4 * rng.fork("contrast").uniform(len(x), x)
    return (x.roll((rows, columns), (2, 3)) + 1) * contrast[:, None, None, None] - 1


def of_references(field: Any, batch: Batch, rng: bl.Rng) -> Loss:
    """Flow matching on digits, of which each is its own reference."""
    given = {"given": weakened(batch.x1, rng.fork("references"))}
    return MATCHING(field, Batch(batch.x1, cond=given), rng)


def correlation(a: Tensor, b: Tensor) -> float:
    """The mean correlation of the pixels of pairs."""
    u, v = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return float(torch.cosine_similarity(u, v).mean())


def measure(rng: bl.Rng) -> list[Finding]:
    first, second, held = base(rng.seed), base(rng.seed, 1), digits()[1]
    made = learn(Encoded(first, encoder_of(rng, 64)), of_references, bl.Batch(digits()[0].x1), rng, steps=STEPS)
    pictures, label = held.x1[:COUNT], labels(held)[:COUNT]
    swapped = {"given": pictures[rng.fork("swapped").permutation(COUNT)]}
    own, other, wrong = (
        drawn(field, given, rng, COUNT)
        for field, given in ((made, {"given": pictures}), (made.on(second), {"given": pictures}), (made, swapped))
    )
    known = drawn(first, {"context": TABLE[label]}, rng, COUNT)
    of_class = digits()[0].x1[torch.stack([(labels(digits()[0]) == k).nonzero()[0, 0] for k in label])]
    return [
        Finding("share of the class of the reference, against 95% of that under the vector of the class",
                0.95 * share(known, label), share(own, label), share(wrong, label), "other references", "higher"),
        Finding("share of the class with a second flow, against 80%",
                0.8, share(other, label), share(wrong, label), "other references", "higher"),
        Finding("correlation of samples with their references, against that of samples under the vector of the class",
                correlation(known, pictures), correlation(own, pictures), correlation(of_class, pictures),
                "another digit of the class", "higher"),
    ]  # fmt: skip
