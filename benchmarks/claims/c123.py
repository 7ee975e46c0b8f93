"""Digits of 8 x 8 pixels under the vector of their class, which is retrieved: 400 training digits with their vectors
are the bank, and a query, a held-out digit or a name, is the weighted mean of the five rows with the most similar
features. Two queries of different classes are fused by the mean of their vectors. 300 samples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import beeline as bl
from benchmarks.claims.contexts import CLASSES, TABLE, base, classes, digits, drawn, labels, share
from benchmarks.claims.verdict import Finding

METHOD = "Image Anything: conditions retrieved and fused"
CLAIM = "Any combination of modalities leads a frozen flow without training, by retrieval in one space."
COUNT, ROWS, NEAREST, TEMPERATURE = 300, 400, 5, 0.1


def centres() -> Tensor:
    """The mean digit of every class."""
    data = digits()[0]
    return torch.stack([data.x1[labels(data) == k].flatten(1).mean(0) for k in range(CLASSES)])


def of_pictures(x: Tensor) -> Tensor:
    """Pictures in the shared space: probabilities of the classes by the distance from their means."""
    return torch.softmax(-torch.cdist(x.flatten(1), centres()).square() / 4, 1)


def of_names(label: Tensor) -> Tensor:
    """Names in the shared space."""
    return torch.eye(CLASSES)[label]


def retrieved(query: Tensor, nearest: int = NEAREST) -> Tensor:
    """The condition of queries in the shared space: a weighted mean of the vectors of rows of the bank."""
    bank = digits()[0]
    keys = F.normalize(of_pictures(bank.x1[:ROWS]), dim=1)
    near, rows = (F.normalize(query, dim=1) @ keys.T).topk(nearest, 1)
    vectors = TABLE[labels(bank)[:ROWS]][rows]
    return ((near / TEMPERATURE).softmax(1)[..., None] * vectors).sum(1)


def measure(rng: bl.Rng) -> list[Finding]:
    flow, held = base(rng.seed), digits()[1]
    label, pictures = labels(held)[:COUNT], of_pictures(held.x1[:COUNT])
    own = of_pictures(digits()[0].x1[:ROWS])
    unlike = torch.unique(own, dim=0, return_inverse=True)[1]
    single = (torch.bincount(unlike)[unlike] == 1).nonzero()[:50, 0]
    exact = TABLE[labels(digits()[0])[:ROWS]][single]
    found = retrieved(own[single], 1)
    other = (label + 1 + rng.fork("other").integers(CLASSES - 1, COUNT)) % CLASSES

    def made(cond: Tensor) -> Tensor:
        return drawn(flow, {"context": cond}, rng, COUNT)

    def either(x: Tensor) -> float:
        k = classes(x)
        return float(((k == label) | (k == other)).float().mean())

    def least(x: Tensor) -> float:
        """The smaller one of the shares of both classes."""
        return min(share(x, label), share(x, other))

    def mean(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The mean of both velocities."""
        out: Tensor = (flow(x, t, {"context": cond["a"]}) + flow(x, t, {"context": cond["b"]})) / 2
        return out

    a, b = retrieved(pictures), retrieved(of_names(other))
    fused = made((a + b) / 2)
    composed = drawn(mean, {"a": a, "b": b}, rng, COUNT)
    known, wrong = made(TABLE[label]), made(a[rng.fork("swapped").permutation(COUNT)])
    return [
        Finding("rows of the bank whose own query finds them exactly, against all but one in fifty",
                0.98, float((found == exact).all(1).float().mean()),
                float((found.roll(1, 0) == exact).all(1).float().mean()), "the next query", "higher"),
        Finding("share of the class of the picture, against 90% of that under the vector of the class",
                0.9 * share(known, label), share(made(a), label), share(wrong, label), "other pictures", "higher"),
        Finding("share of one of both classes, picture and name fused, against the mean of their velocities",
                either(composed), either(fused), either(wrong), "other pictures", "higher"),
        Finding("smaller share of both classes, picture and name fused, against 40%",
                0.4, least(fused), least(known), "the picture alone", "higher"),
    ]  # fmt: skip
