"""Shared by the claims about smaller networks: weights, layers with loud channels, and a small trained flow.

GAUSS: weights [256,512] from N(0, 0.02^2).  LOUD: weights [96,128] and correlated inputs whose channels differ by
e^(0.8 N), two of them 12 times louder; 512 inputs to look at, 2,000 others to measure the error of outputs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import beeline as bl
from beeline.data.image_files import Digits
from beeline.networks.compressing.compressor import Call, Moments, Probe
from beeline.networks.dit import DiT
from benchmarks.claims.toys import learn, network, points

STEPS = 16  # of the sampling whose states are recorded


def gauss(rng: bl.Rng) -> Tensor:
    return 0.02 * rng.fork("gauss").normal(torch.empty(256, 512))


def outliers(rng: bl.Rng, count: int, factor: float = 20.0) -> Tensor:
    """GAUSS with some numbers that are larger."""
    w = gauss(rng)
    w.view(-1)[rng.fork("where").permutation(w.numel())[:count]] *= factor
    return w


def loud(rng: bl.Rng) -> tuple[Tensor, Moments, Tensor]:
    n = 128
    w = rng.fork("w").normal(torch.empty(96, n)) / n**0.5
    mix = torch.eye(n) + 0.5 * rng.fork("mix").normal(torch.empty(n, n)) / n**0.5
    size = (0.8 * rng.fork("size").normal(torch.empty(n))).exp()
    size[rng.fork("loud").permutation(n)[:2]] *= 12
    x = (rng.fork("x").normal(torch.empty(2512, n)) @ mix) * size
    moments = Moments()
    moments.add(x[:512])
    return w, moments, x[512:]


def weight_error(form: Any, w: Tensor, moments: Moments | None = None) -> float:
    return float((form.decode(form.encode(w, moments), *w.shape) - w).norm() / w.norm())


def output_error(form: Any, layer: tuple[Tensor, Moments, Tensor]) -> float:
    """The relative error of outputs for inputs that were not looked at."""
    w, moments, x = layer
    y = x @ w.mT
    return float((form.product(x, form.encode(w, moments), len(w)) - y).norm() / y.norm())


@functools.cache
def ring(seed: Any) -> nn.Module:
    """The backbone of a flow of the ring."""
    rng = bl.Rng(seed)
    net = learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng.fork("fit"), steps=400)
    return net.backbone.eval().requires_grad_(False)


def states(net: nn.Module, rng: bl.Rng, n: int = 256) -> Probe:
    """The inputs of a network while it samples by Euler's method."""
    x, calls = rng.fork("noise").normal(torch.empty(n, 2)), []
    for k in range(STEPS):
        t = torch.full((n,), k / STEPS)
        calls.append(Call(x, t, None))
        with torch.no_grad():
            x = x + net(x, t) / STEPS
    return Probe(calls)


def smaller(method: Any, net: nn.Module, rng: bl.Rng) -> nn.Module:
    """The network that a compressor makes."""
    probe = states(net, rng.fork("probe"))
    return method.apply(net, method.plan(net, probe), probe, rng.fork("apply"))


def velocity_change(method: Any, net: nn.Module, rng: bl.Rng) -> float:
    """The relative error of the velocities of a smaller network, over states that it has not seen."""
    return change_of(smaller(method, net, rng), net, states(net, rng.fork("fresh")))


@functools.cache
def digits(seed: Any, depth: int = 4, steps: int = 300) -> tuple[nn.Module, Probe, Probe]:
    """A small transformer of the digits, and states of its sampling: to look at, and fresh ones."""
    rng = bl.Rng(seed)
    data = Digits()
    raw = data.load()[0]
    batch = data.modality().fit(raw).encode(raw)
    with rng.fork("network").ambient():
        net = bl.Network(DiT((1, 8, 8), width=32, depth=depth, heads=4))
    objective = bl.objectives.FlowMatching()
    found = learn(net, objective, bl.Batch(batch.x1), rng.fork("fit"), steps=steps, batch_size=64).backbone
    found = found.eval().requires_grad_(False)
    return found, *(pictures(found, rng.fork(name)) for name in ("probe", "fresh"))


def pictures(net: nn.Module, rng: bl.Rng, n: int = 64) -> Probe:
    """States of the sampling of a transformer of the digits."""
    x, calls = rng.normal(torch.empty(n, 1, 8, 8)), []
    for k in range(STEPS):
        calls.append(Call(x, torch.full((n,), k / STEPS), None))
        with torch.no_grad():
            x = x + net(x, calls[-1].t) / STEPS
    return Probe(calls)


def change_of(made: nn.Module, net: nn.Module, fresh: Probe) -> float:
    """The relative error of velocities."""
    with torch.no_grad():
        pairs = [(made(*c.inputs), net(*c.inputs)) for c in fresh.calls]
    return float((sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5)
