"""The ring with overlapping classes and a trained model, 16 Euler steps of two evaluations in the middle. The exact
classifier sees predicted data. W2 is the distance to data with the wanted labels; fidelity is the mean posterior
probability of the condition. The scale of classifier-free guidance is that of equal fidelity. The control is given a
classifier that takes every class for its neighbour."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.sampling.guidance.confused import ConfusedClass
from benchmarks.claims.c142 import guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.labelled import labelled_w2
from benchmarks.claims.toys import CLASSES, even, finding, noise, sample
from benchmarks.claims.verdict import Finding

METHOD = "Gradient-free classifier guidance"
CLAIM = "A classifier that only chooses the class to lead away from raises fidelity at less loss of diversity."
GAIN, WINDOW = 4.0, (0.2, 0.9)


def logits(x1: torch.Tensor, shift: int = 0) -> torch.Tensor:
    """The exact classifier; with ``shift`` that of other classes."""
    means = torch.tensor(CLASSES.means, dtype=x1.dtype)
    return -torch.cdist(x1, means).square().roll(shift, 1) / (2 * 0.6**2)


def measure(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng)[1], noise(rng)
    real, label = even(CLASSES, rng)
    cond = {"label": label}
    made = sample(plain, x0, 16, cond, guidance=ConfusedClass(logits, GAIN, WINDOW))
    wrong = sample(plain, x0, 16, cond, guidance=ConfusedClass(lambda x1: logits(x1, 1), GAIN, WINDOW))
    none = sample(plain, x0, 16, cond)
    low, high = 1.0, 8.0
    for _ in range(12):
        scale = (low + high) / 2
        equal = guided(plain, x0, cond, 16, scale)
        low, high = (scale, high) if faithful(equal, label) < faithful(made, label) else (low, scale)
    trivial = "wrong classifier"
    near = {name: labelled_w2(x, real, label) for name, x in (("no guidance", none), ("CFG of equal fidelity", equal))}
    away, unlike = labelled_w2(wrong, real, label), faithful(wrong, label)
    compares = "fidelity: classifier (figure) against no guidance"
    rows = [finding(compares, faithful(none, label), faithful(made, label), unlike, trivial, "higher")]
    for name, value in near.items():
        compares = f"W2 to the data: classifier (figure) against {name}"
        rows.append(finding(compares, value, labelled_w2(made, real, label), away, trivial))
    return rows
