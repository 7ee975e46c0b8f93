"""Chen et al. 2025: the guided model trained itself draws what guidance draws, at half the evaluations."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.toys import CLASSES, draw, finding, learn, network, noise, points, w2

METHOD = "Guidance-free training"
SCALE, NULL = 2.0, 8
LABEL = {"label": {"classes": 8}}
DROP = bl.objectives.Drop(0.15, {"label": NULL})


def trained(rng: bl.Rng, steps: int = 1800) -> tuple[bl.Batch, Any]:
    """Data with labels and a plain conditional model that knows the null."""
    data = points(rng, CLASSES)
    net = learn(network(rng, conditions=LABEL), bl.objectives.FlowMatching(drop=DROP), data, rng.fork("plain"), steps)
    return data, net


def guided(field: Any, x0: torch.Tensor, cond: Any, steps: int, scale: float = SCALE) -> torch.Tensor:
    """Samples with classifier-free guidance."""
    return draw(field, x0, steps, cond, guidance=bl.CFG(scale, {"label": NULL}))


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    data, plain = trained(rng)
    net = network(rng, conditions={**LABEL, "beta": {"size": 1}})
    objective = bl.objectives.GuidanceFree(bl.objectives.FlowMatching(drop=DROP))
    net = learn(net, objective, data, rng.fork("free"), steps=1800)
    x0, label = noise(rng), torch.arange(1000) % 8
    wanted = guided(CLASSES.field(), x0, {"label": label}, 60)
    told = {"label": label, "beta": torch.full((1000, 1), 1 / SCALE)}
    half, same = guided(plain, x0, {"label": label}, 4), guided(plain, x0, {"label": label}, 8)
    made = draw(net, x0, 8, told)
    return [
        finding("W2 to exact guided samples (scale 2) at 8 evaluations: guidance-free (figure) against guidance in "
                "4 steps", w2(half, wanted), w2(made, wanted)),
        finding("the same at 8 steps each (guidance then costs 16)", w2(same, wanted), w2(made, wanted)),
    ]  # fmt: skip
