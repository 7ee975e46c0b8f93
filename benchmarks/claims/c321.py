"""Tang et al. 2025: the network learns its own guided velocity, so that sampling costs one pass."""

from __future__ import annotations

from typing import Any

import torch

import beeline as bl
from benchmarks.claims.c142 import DROP, SCALE, guided, trained
from benchmarks.claims.toys import CLASSES, draw, finding, learn, noise, w2

METHOD = "Model guidance"


def measure(rng: bl.Rng) -> list[dict[str, Any]]:
    import copy

    data, plain = trained(rng)
    objective = bl.objectives.ModelGuidance(bl.objectives.FlowMatching(drop=DROP), scale=SCALE)
    net = learn(copy.deepcopy(plain), objective, data, rng.fork("own"), steps=1500, peak=1e-3)
    x0, cond = noise(rng), {"label": torch.arange(1000) % 8}
    wanted = guided(CLASSES.field(), x0, cond, 60)
    before, after = guided(plain, x0, cond, 4), draw(net, x0, 8, cond)
    return [finding("W2 to exact guided samples (scale 2) at 8 evaluations: model guidance (figure) "
                    "against guidance in 4 steps", w2(before, wanted), w2(after, wanted))]  # fmt: skip
