"""The ring with overlapping classes and a trained model, 16 steps. Fidelity is the mean posterior probability of the
condition, diversity the standard deviation within a class."""

from __future__ import annotations

import torch

import beeline as bl
from benchmarks.claims.c142 import LABEL, guided, trained
from benchmarks.claims.c226 import faithful
from benchmarks.claims.toys import finding, network, noise
from benchmarks.claims.verdict import Finding

METHOD = "Classifier-free guidance"
CLAIM = "Guidance trades diversity for fidelity without a classifier."


def measure(rng: bl.Rng) -> list[Finding]:
    plain, x0 = trained(rng)[1], noise(rng)
    label = torch.arange(len(x0)) % 8
    nets = ((plain, 1.0), (plain, 2.0), (network(rng, conditions=LABEL), 2.0))
    made = [guided(net, x0, {"label": label}, 16, scale) for net, scale in nets]
    fidelity = [faithful(x, label) for x in made]
    spread = [float(torch.stack([x[label == k].var(0).sum() for k in range(8)]).mean().sqrt()) for x in made]
    return [
        finding("fidelity: scale 2 (figure) against scale 1", *fidelity, better="higher"),
        finding("diversity, which is paid: scale 2 (figure) against scale 1", *spread),
    ]
