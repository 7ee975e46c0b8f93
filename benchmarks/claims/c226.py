"""The ring with overlapping classes. All samples take 20 evaluations: 20 steps without guidance, or 10 with guidance
(scale 2). Fidelity is the mean posterior probability of the condition; W2 is the distance to exactly guided samples."""

from __future__ import annotations

import copy

import torch

import beeline as bl
from benchmarks.claims.c142 import LABEL, guided, trained
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Condition contrastive alignment"
CLAIM = "A short fine-tuning matches classifier-free guidance at half the cost of sampling."


def faithful(x: torch.Tensor, label: torch.Tensor) -> float:
    """The mean posterior probability of the wanted class."""
    means = torch.tensor(CLASSES.means, dtype=x.dtype)
    posterior = torch.softmax(-torch.cdist(x, means).square() / (2 * 0.6**2), 1)
    return float(posterior[torch.arange(len(x)), label].mean())


def measure(rng: bl.Rng) -> list[Finding]:
    data, plain = trained(rng)
    objective = bl.objectives.Contrastive(bl.objectives.FlowMatching(), copy.deepcopy(plain), strength=1.0, push=0.2)
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("cca"), steps=300, peak=5e-4)
    x0 = noise(rng)
    label = torch.arange(len(x0)) % 8
    cond = {"label": label}
    wanted = guided(CLASSES.field(), x0, cond, 60)
    first = sample(network(rng, conditions=LABEL), x0, 20, cond)
    made = {"before": sample(plain, x0, 20, cond), "CFG": guided(plain, x0, cond, 10)}
    aligned = sample(net, x0, 20, cond)
    return [
        *(finding(f"W2: aligned (figure) against {name}", w2(x, wanted), w2(aligned, wanted), w2(first, wanted))
          for name, x in made.items()),
        *(finding(f"fidelity: aligned (figure) against {name}", faithful(x, label), faithful(aligned, label),
                  faithful(first, label), better="higher") for name, x in made.items()),
    ]  # fmt: skip
