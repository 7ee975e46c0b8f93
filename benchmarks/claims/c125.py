"""A small transformer with rotary positions, trained on digits of 8 x 8 pixels and sampled at 16 x 16 and at 8 x 16:
the sliced Wasserstein distance of samples, shrunken to 8 x 8, to held-out digits. Frequencies are changed for the
longer axes alone, without further training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import beeline as bl
from beeline.networks.hub.sizes.rotary import NTKAware, YaRN
from benchmarks.claims.sizes import LARGE, STEPS, TOKENS, TRAINED, digits, distance, fields, rotating
from benchmarks.claims.toys import finding, sample
from benchmarks.claims.verdict import Finding

METHOD = "FiT: larger sizes by scaled rotary positions"
CLAIM = "Scaled frequencies make samples of untrained sizes and shapes much better than plain extrapolation."


def measure(rng: bl.Rng) -> list[Finding]:
    net, untrained = fields(rng.seed)
    rows = []
    for height, width in ((LARGE, LARGE), (TRAINED, LARGE)):
        x0 = rng.fork("x0", height).normal(torch.empty(len(digits()[1]), 1, height, width))
        found: dict[str, float] = {}
        made: dict[str, Any] = {"plain": net, "untrained": untrained}
        for name, scaling in (("NTK", NTKAware(2.0)), ("YaRN", YaRN(2.0, trained=TOKENS[0]))):
            with rng.fork("network").ambient():
                made[name] = rotating(scaling).eval()
            made[name].load_state_dict(net.state_dict())
        for name, field in made.items():
            drawn = nn.functional.adaptive_avg_pool2d(sample(field, x0, STEPS), (TRAINED, TRAINED))
            found[name] = distance(drawn, rng)
        rows += [
            finding(f"{height} x {width}: {name} (figure) against plain extrapolation", found["plain"], found[name],
                    found["untrained"])
            for name in ("NTK", "YaRN")
        ]  # fmt: skip
    return rows
