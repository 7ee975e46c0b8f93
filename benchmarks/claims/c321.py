"""The ring with overlapping classes: W2 distance to exactly guided samples (scale 2) at 8 evaluations."""

from __future__ import annotations

import copy

import torch

import beeline as bl
from benchmarks.claims.c142 import DROP, LABEL, SCALE, guided, trained
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Model guidance"
CLAIM = "The network learns its own guided velocity, so that sampling costs one pass."


def measure(rng: bl.Rng) -> list[Finding]:
    data, plain = trained(rng)
    objective = bl.objectives.ModelGuidance(bl.objectives.FlowMatching(drop=DROP), scale=SCALE)
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("own"), steps=700, peak=1e-3)
    x0 = noise(rng)
    cond = {"label": torch.arange(len(x0)) % 8}
    wanted = guided(CLASSES.field(), x0, cond, 60)
    made = guided(plain, x0, cond, 4), sample(net, x0, 8, cond), sample(network(rng, conditions=LABEL), x0, 8, cond)
    return [finding("model guidance (figure) against guidance in 4 steps", *(w2(x, wanted) for x in made))]  # fmt: skip
