"""The ring with overlapping classes: W2 distance to exactly guided samples (scale 2) after equal training."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import CLASSES, finding, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

METHOD = "Guidance-free training"
CLAIM = "Samples as good as classifier-free guidance at half the sampling cost, trained from scratch."
SCALE, NULL = 2.0, 8
LABEL = {"label": {"classes": 8}}
DROP = bl.objectives.Drop(0.15, {"label": NULL})


def trained(rng: bl.Rng, steps: int = 900) -> tuple[bl.Batch, Any]:
    """Data with labels and a plain conditional model that knows the null."""
    data = points(rng, CLASSES)
    net = learn(network(rng, conditions=LABEL), bl.objectives.FlowMatching(drop=DROP), data, rng.fork("plain"), steps)
    return data, net


def guided(field: Any, x0: torch.Tensor, cond: Any, steps: int, scale: float = SCALE) -> torch.Tensor:
    """Samples with classifier-free guidance."""
    return sample(field, x0, steps, cond, guidance=bl.CFG(scale, {"label": NULL}))


def measure(rng: bl.Rng) -> list[Finding]:
    data, plain = trained(rng)
    net, first = (network(rng, conditions={**LABEL, "beta": {"size": 1}}) for _ in range(2))
    objective = bl.objectives.GuidanceFree(bl.objectives.FlowMatching(drop=DROP))
    net = learn(net, objective, data, rng.fork("free"), steps=900)
    x0 = noise(rng)
    label = torch.arange(len(x0)) % 8
    wanted = guided(CLASSES.field(), x0, {"label": label}, 60)
    cond = {"label": label, "beta": torch.full((len(x0), 1), 1 / SCALE)}
    half, same = guided(plain, x0, {"label": label}, 4), guided(plain, x0, {"label": label}, 8)
    made, raw = (w2(sample(f, x0, 8, cond), wanted) for f in (net, first))
    return [
        finding("8 evaluations: guidance-free (figure) against guidance in 4 steps", w2(half, wanted), made, raw),
        finding("8 steps: guidance-free (figure, 8 evaluations) against guidance (16)", w2(same, wanted), made, raw),
    ]  # fmt: skip
