"""A flow of the ring with classes, each of which moves along two directions by amounts of its own. A generator makes
the LoRA (rank 2) of every layer from a prototype of the class and an embedding of the layer; it is trained on six
classes. For a new class the prototype alone is fitted to few points, against a LoRA from scratch, 60 steps each.
Retrieval of prototypes from data is left out: the classes are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.delta import LoRA
from benchmarks.claims.c095 import KNOWN, NEW, STEPS, moving
from benchmarks.claims.mixed import base, data, distance, tune, with_delta
from benchmarks.claims.verdict import Finding

METHOD = "Prototype-based HyperAdapter"
CLAIM = "Weights that are generated from prototypes need fewer samples, and the margin grows as data shrink."
SIZE, WIDTH = 8, 32


class Generated(nn.Module):
    """A flow whose LoRAs are made from the prototype of the class of every row."""

    def __init__(self, seed: int):
        super().__init__()
        self.net = with_delta(LoRA(2), seed).requires_grad_(False)
        self.shapes = {n: p.shape for n, p in self.net.named_parameters() if ".changes." in n}
        self.start = {n: p.detach().clone() for n, p in self.net.named_parameters() if n in self.shapes}
        self.prototypes = nn.Parameter(torch.randn(8, SIZE))
        self.layers = nn.Parameter(torch.randn(len(self.shapes), SIZE))
        self.first = nn.Linear(2 * SIZE, WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, shape.numel()) for shape in self.shapes.values())
        for head in self.heads:
            nn.init.normal_(head.weight, std=1e-3)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def numbers(self, prototype: Tensor) -> dict[str, Tensor]:
        """The numbers of all LoRAs for one prototype [SIZE]."""
        made = {}
        for (name, shape), layer, head in zip(self.shapes.items(), self.layers, self.heads, strict=True):
            h = self.first(torch.cat([prototype, layer])).relu()
            made[name] = self.start[name] + head(nn.functional.layer_norm(h, h.shape)).view(shape)
        return made

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        out = torch.zeros_like(x)
        for c in cond["label"].unique().tolist():
            rows = cond["label"] == c
            given = (x[rows], t[rows], {"label": cond["label"][rows]})
            out[rows] = torch.func.functional_call(self.net, self.numbers(self.prototypes[c]), given)
        return out


def measure(rng: bl.Rng) -> list[Finding]:
    seed = rng.seed
    with bl.Rng(seed).fork("generator").ambient():
        net = Generated(seed)
    net = tune(net, data(seed, moving, KNOWN), seed, 250)
    with torch.no_grad():
        net.prototypes[NEW] = net.prototypes[list(KNOWN)].mean(0)
    net.requires_grad_(False)
    none = distance(base(seed).field, seed, moving, (NEW,))
    found = []
    for few in (5, 100):
        points = data(seed, moving, (NEW,), few)
        with bl.Rng(seed).fork("copy").ambient():
            own = Generated(seed)
        own.load_state_dict(net.state_dict())
        own.requires_grad_(False).prototypes.requires_grad_(True)
        fitted = tune(own, points, seed, STEPS, 5e-2)
        scratch = tune(with_delta(LoRA(2), seed), points, seed, STEPS)
        found.append(tuple(distance(f, seed, moving, (NEW,)) for f in (scratch, fitted)))
    (a, b), (c, d) = found
    return [
        Finding("W2 to a new class of 5 points: its prototype (figure) against a LoRA from scratch", a, b, none,
                "not adapted"),
        Finding("W2 to a new class of 100 points: its prototype (figure) against a LoRA from scratch", c, d, none,
                "not adapted"),
    ]  # fmt: skip
