"""Weights of a small transformer of the digits and Gaussian ones [256,512] in bfloat16, their exponents in a Huffman
code: bytes, samples of 16 Euler steps, and seconds of an evaluation with decoding."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.networks.adapters.delta import layers_of
from beeline.networks.compressing.compressor import Probe
from beeline.networks.compressing.formats import Format, Integers
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.weights.entropy import EntropyCoded
from benchmarks.claims.storing import STEPS, digits, gauss
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "DFloat11: exponents of bfloat16 weights in a Huffman code"
CLAIM = "Networks are about 30 percent smaller, with outputs that are the same bit for bit."


def share(form: Format, weights: list[Tensor]) -> float:
    """Bytes of bfloat16 weights in a format, as a share of those before."""
    stored = [t for w in weights for t in form.encode(w.bfloat16()).values()]
    return sum(t.numel() * t.element_size() for t in stored) / sum(2 * w.numel() for w in weights)


def smaller(method: Quantize, net: nn.Module, probe: Probe, rng: bl.Rng) -> nn.Module:
    return method.apply(net, method.plan(net, probe), probe, rng.fork("apply"))


def samples(net: nn.Module, rng: bl.Rng) -> Tensor:
    """Samples of a network of bfloat16 weights."""
    x = rng.normal(torch.empty(64, 1, 8, 8)).bfloat16()
    for k in range(STEPS):
        with torch.no_grad():
            x = x + net(x, torch.full((64,), k / STEPS).bfloat16()) / STEPS
    return x.float()


def seconds(net: nn.Module) -> float:
    """The least seconds of three evaluations."""
    took, x = [], torch.zeros(64, 1, 8, 8, dtype=torch.bfloat16)
    for _ in range(3):
        begin = time.perf_counter()
        with torch.no_grad():
            net(x, x[:, 0, 0, 0])
        took.append(time.perf_counter() - begin)
    return min(took)


def measure(rng: bl.Rng) -> list[Finding]:
    trained, probe, _ = digits(rng.seed)
    net = copy.deepcopy(trained).to(torch.bfloat16)
    weights = [layer.weight.detach().flatten(1) for layer in layers_of(net).values()]  # type: ignore[operator,union-attr]
    coded, plain = EntropyCoded(2.8), EntropyCoded(8.0)
    found = [
        finding(f"bytes of {name} (figure) against 0.7 of those of bfloat16", 0.7, share(coded, some),
                share(plain, some), "eight bits for an exponent")
        for name, some in (("Gaussian weights", [gauss(rng)]), ("the weights of the transformer", weights))
    ]  # fmt: skip
    exact = samples(net, rng.fork("x"))
    change = {}
    for form in (coded, Integers(8), Integers(4)):
        made = smaller(Quantize(form, rest=None, kept=True), net, probe, rng)
        change[form] = float((samples(made, rng.fork("x")) - exact).square().mean().sqrt())
    quick, slow = seconds(net), seconds(smaller(Quantize(coded, rest=None), net, probe, rng))
    return [
        *found,
        finding("change of samples (figure) against integers of 8 bits", change[Integers(8)], change[coded],
                change[Integers(4)], "4 bits"),
        finding("seconds of an evaluation with decoding (figure) against twice those of bfloat16", 2 * quick, slow,
                2 * slow, "decoded twice"),
    ]  # fmt: skip
