"""A layer with loud channels and a flow of the ring, weights of 2 bits: coefficients of a Walsh-Hadamard transform that
start where they undo the rounding, against LoRA of as many numbers; seconds against a Fourier transform."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

import beeline as bl
from beeline.networks.adapters.adapted import Adapted
from beeline.networks.adapters.delta import Delta, LoRA, layers_of
from beeline.networks.adapters.inside import backbone_of, with_backbone
from beeline.networks.adapters.members.sparse import Fourier, WalshHadamard
from beeline.networks.adapters.starts import cancelling
from beeline.networks.compressing.around import Corrected
from beeline.networks.compressing.compressed import Compressed
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.quantize import Quantize
from benchmarks.claims.deltas import base, distance, numbers, tune
from benchmarks.claims.storing import loud, output_error, smaller, states
from benchmarks.claims.toys import finding, points
from benchmarks.claims.verdict import Finding

METHOD = "QWHA: Walsh-Hadamard adapters that start by undoing the rounding"
CLAIM = "At few bits they are better than other adapters, and faster than those of Fourier transforms."
RANK, COUNT = 4, 8  # of LoRA, and coefficients of a row: equal numbers for square layers
FEW = Integers(2)


def one_layer(rng: bl.Rng) -> tuple[float, float, float]:
    """Errors of outputs: LoRA of rank 6 fitted to them, the same numbers of coefficients, and none."""
    layer = w, moments, x = loud(rng)
    net = nn.ModuleDict({"linear": nn.Linear(w.shape[1], len(w), bias=False), "last": nn.Linear(1, 1)})
    net["linear"].weight.data = w
    few = Compressed(copy.deepcopy(net), [FEW], [["linear"]])
    count = 6 * sum(w.shape) // len(w)
    made = cancelling(Adapted(few, WalshHadamard(count)), net, {"linear": moments.second})
    y, found = x @ w.mT, x @ made.get_submodule("field.field.linear").weight.detach().mT  # type: ignore[operator,union-attr]
    return output_error(Corrected(FEW, 6), layer), float((found - y).norm() / y.norm()), output_error(FEW, layer)


def tuned(rng: bl.Rng) -> dict[str, tuple[float, float]]:
    """W2 to the data and to a new style after training: with a start, without one, and LoRA; and without training."""
    field = base(rng.seed)
    own = backbone_of(field)
    seen = states(own, rng.fork("probe")).moments(own, layers_of(own))
    moments = {name: m.second for name, m in seen.items()}
    few = with_backbone(field, lambda net: smaller(Quantize(FEW, rest=None), net, rng))

    def adapted(delta: Delta) -> nn.Module:
        with rng.fork("start", repr(delta)).ambient():
            return with_backbone(few, lambda net: Adapted(net, delta))

    fields = {"lora": adapted(LoRA(RANK)), "random": adapted(WalshHadamard(COUNT))}
    fields["started"] = adapted(WalshHadamard(COUNT))
    fields["started"].backbone = cancelling(fields["started"].backbone, own, moments)  # type: ignore[arg-type]
    assert numbers(fields["started"]) <= 1.05 * numbers(fields["lora"])
    found = {"none": (distance(few, rng.seed, old=True), distance(few, rng.seed))}
    for name, one in fields.items():
        same = tune(copy.deepcopy(one), rng.seed, points(rng))
        found[name] = distance(same, rng.seed, old=True), distance(tune(one, rng.seed), rng.seed)
    return found


def seconds(delta: Delta, rng: bl.Rng) -> float:
    """The least seconds of a changed weight [512,512] and its gradient."""
    w, took = torch.zeros(512, 512), []
    with rng.ambient():
        p = delta.start(w)
    p["coefficients"].requires_grad_()
    for _ in range(5):
        begin = time.perf_counter()
        delta.weight(w, p).square().sum().backward()
        took.append(time.perf_counter() - begin)
    return min(took)


def measure(rng: bl.Rng) -> list[Finding]:
    lora, started, none = one_layer(rng)
    tunings = tuned(rng)
    walsh, fourier = (seconds(d, rng) for d in (WalshHadamard(8), Fourier(8 * 512)))
    return [
        finding("2 bits, loud channels: error of outputs at the start, relative to that of LoRA fitted to them", 1.0,
                started / lora, none / lora, "no adapter"),
        *(
            finding(f"2 bits: W2 to {data} after training, started (figure) against {name}", tunings[other][k],
                    tunings["started"][k], tunings["none"][k], "not trained")
            for k, data in enumerate(("the data", "a new style"))
            for name, other in (("LoRA of equal numbers", "lora"), ("random places", "random"))
        ),
        finding("seconds of a weight [512,512] and its gradient (figure) against a Fourier transform", fourier, walsh,
                2 * fourier, "two of these"),
    ]  # fmt: skip
