"""The ring with overlapping classes: a model after 250 steps, and a weak version of it, a quarter as wide after 60
steps. Fidelity is the mean posterior probability of the condition; the loss of diversity is the standard deviation
within a class, compared with classifier-free guidance of the same scale; quality is the fraction of samples more
than three standard deviations from every mode. 20 Euler steps."""

from __future__ import annotations

import torch

import beeline as bl
from beeline.sampling.guidance.guide import Extrapolate, Guide, Weak
from benchmarks.claims.c142 import DROP, LABEL, guided, trained
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Autoguidance"
CLAIM = "Guidance by a smaller and less trained version improves quality without losing variation."
SEEDS, SCALE, STEPS = 4, 2.0, 20


def far(x: torch.Tensor) -> float:
    """The share of points further than three standard deviations from every mode; 0.011 of exact samples."""
    means = torch.tensor(CLASSES.means, dtype=x.dtype)
    return float((torch.cdist(x, means).min(1).values > 1.8).double().mean())


def measure(rng: bl.Rng) -> list[Finding]:
    data, good = trained(rng, 250)
    bad = learn(network(rng.fork("bad"), width=16, conditions=LABEL), bl.objectives.FlowMatching(drop=DROP), data,
                rng.fork("bad"), steps=60)  # fmt: skip
    x0 = noise(rng)
    label = torch.arange(len(x0)) % 8
    cond = {"label": label}
    wanted = sample(CLASSES.field(), x0, 60, cond)

    def spread(x: torch.Tensor) -> float:
        return float(torch.stack([x[label == k].var(0).sum() for k in range(8)]).mean().sqrt())

    plain, free = sample(good, x0, STEPS, cond), guided(good, x0, cond, STEPS, SCALE)
    auto, weak = (
        sample(field, x0, STEPS, cond, guidance=Guide(Weak(bad), Extrapolate(SCALE))) for field in (good, bad)
    )
    exact = spread(wanted)
    lost = [abs(spread(x) - exact) for x in (plain, free, auto, weak)]
    trivial = "the bad version alone"
    return [
        finding("fraction of outliers: autoguidance (figure) against none", far(plain), far(auto),
                far(weak), trivial),
        finding("W2 to the exact samples: autoguidance (figure) against none", w2(plain, wanted), w2(auto, wanted),
                w2(weak, wanted), trivial),
        finding("W2 to the exact samples: autoguidance (figure) against classifier-free guidance", w2(free, wanted),
                w2(auto, wanted), w2(weak, wanted), trivial),
        finding("error of the spread within a class: autoguidance (figure) against classifier-free guidance", lost[1],
                lost[2], lost[3], trivial),
    ]  # fmt: skip
