"""Bytes kept for a backward pass, gradients and losses of a small transformer on 8 x 8 digits with derivatives of
activations in 4 bits."""

from __future__ import annotations

import contextlib

import torch

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.dit import DiT
from beeline.networks.side.bits import saved_in_bits
from benchmarks.claims.memory import kept_bytes
from benchmarks.claims.toys import learn
from benchmarks.claims.verdict import Finding

METHOD = "S2A: derivatives of activations in 4 bits"
CLAIM = "Fourfold lower memory on average."
STEPS = 120


def measure(rng: bl.Rng) -> list[Finding]:
    found: dict[bool, tuple[float, float, torch.Tensor]] = {}
    x = pictures()
    for lean in (False, True):
        with rng.fork("network").ambient():
            net = bl.Network(Flat(DiT((1, 8, 8), width=64, depth=2, heads=2)))
        objective = bl.objectives.FlowMatching()
        with saved_in_bits(net) if lean else contextlib.nullcontext(), rng.fork("rounding").ambient():
            net.backbone.inner.out.weight.data += 0.05 * rng.fork("out").normal(net.backbone.inner.out.weight)
            size = kept_bytes(Points(net), torch.zeros(256, 2))
            loss = objective(net, bl.Batch(x[:256]), rng.fork("gradient"))
            loss.value.backward()
            g = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
            net.zero_grad()
            net = learn(net, objective, bl.Batch(x[:1400]), rng, steps=STEPS, batch_size=64)
            with torch.no_grad():
                end = float(objective(net, bl.Batch(x[1400:]), rng.fork("tests")).value)
        found[lean] = size, end, g
    cosine = float(torch.cosine_similarity(found[False][2], found[True][2], 0))
    start = float(x[1400:].square().flatten(1).sum(1).mean())
    return [
        Finding(
            "bytes kept by the whole network against a quarter",
            0.25 * found[False][0],
            found[True][0],
            found[False][0],
            "32 bits",
        ),
        Finding(
            "bytes kept by the whole network against 32 bits",
            found[False][0],
            found[True][0],
            found[False][0],
            "32 bits",
        ),
        Finding("cosine of the gradient to that of 32 bits, against 0.99", 0.99, cosine, 0.0, "no gradient", "higher"),
        Finding(
            f"held-out loss after {STEPS} steps, 2% worse than 32 bits",
            1.02 * found[False][1],
            found[True][1],
            start,
            "zero velocity of data",
        ),
    ]


def pictures() -> torch.Tensor:
    """The digits of scikit-learn [1797,1,8,8] in [-1, 1]."""
    raw, held = Digits().load()
    modality = Digits().modality().fit(raw)
    return torch.cat([modality.encode(part).x1 for part in (raw, held)])


class Flat(torch.nn.Module):
    """A transformer as a network without conditions."""

    def __init__(self, inner: DiT):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: None = None) -> torch.Tensor:
        found: torch.Tensor = self.inner(x, t)
        return found


class Points(torch.nn.Module):
    """The network on 256 pictures, where points are given."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(torch.zeros(len(x), 1, 8, 8), t)
        return found
