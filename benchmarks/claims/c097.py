"""Adapters of one flow as files: read, switched, stacked and shared. Largest differences of outputs, against 1e-6; the
control is the output of another adapter."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.adapters.adapted import merged
from beeline.networks.adapters.delta import LoRA
from beeline.networks.adapters.members.low_rank import DoRA
from beeline.networks.mlp import MLP
from beeline.runs.adapters.dialects import DIALECTS
from beeline.runs.adapters.files import export, load
from benchmarks.claims.deltas import base, changed, tune
from benchmarks.claims.toys import network, points
from benchmarks.claims.verdict import Finding

METHOD = "AdapterHub: files of adapters for one base"
CLAIM = "Adapters are shared as small files, and switched and stacked in a network that stays as it is."
NEAR = 1e-6


def measure(rng: bl.Rng) -> list[Finding]:
    seed, net = rng.seed, base(rng.seed)
    deltas = [tune(changed(delta, seed), seed, steps=20, name=repr(delta)) for delta in (LoRA(2), LoRA(4), DoRA(1))]
    x, t = points(rng).x1[:64], rng.fork("t").uniform(64, points(rng).x1)

    @torch.no_grad()
    def apart(one: Any, two: Any) -> float:
        return float((one(x, t) - two(x, t)).abs().max())

    with tempfile.TemporaryDirectory() as folder:
        paths = [export(d, Path(folder) / f"{k}.safetensors") for k, d in enumerate(deltas)]
        forms = [export(deltas[0], Path(folder) / f"{name}.safetensors", form) for name, form in DIALECTS.items()]
        order = rng.fork("order").integers(3, 20).tolist()
        switched = max(apart(load(net, paths[k])[0], deltas[k]) for k in order)
        shared = max(apart(load(net, path)[0], deltas[0]) for path in forms)
        pair = [load(load(net, paths[a])[0], paths[b])[0] for a, b in ((0, 1), (1, 0))]
        stacked = max(apart(*pair), apart(merged(pair[0]), pair[0]))
        off = load(net, paths[0])[0]
        off.backbone = off.backbone.at(0.0)
        refused = 0
        for other in (network(rng, width=32), bl.Network(MLP(2, width=64, depth=2))):
            try:
                load(other, paths[0])
            except BeelineError:
                refused += 1
        size = paths[0].stat().st_size / sum(4 * p.numel() for p in net.parameters())
    trivial, wrong = "another adapter", apart(deltas[0], deltas[1])
    return [
        Finding("20 switches in any order, read from files, against 1e-6", NEAR, switched, wrong, trivial),
        Finding("read from the forms of four tools, against 1e-6", NEAR, shared, wrong, trivial),
        Finding("two stacked in either order, and merged, against 1e-5", 10 * NEAR, stacked, wrong, trivial),
        Finding("the base with an adapter of amount 0, against 1e-6", NEAR, apart(off, net), wrong, trivial),
        Finding("files for another base that are refused, of 2", 1.5, refused, 0, "none", "higher"),
        Finding("bytes of a file (rank 2) in those of the base, against a half", 0.5, size, 1.0, "the base itself"),
    ]  # fmt: skip
