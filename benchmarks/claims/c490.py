"""Velocities of a small transformer of the digits at equal bytes: bits of layers by the curvature of the output (the
largest eigenvalue or the diagonal of J^T J) and the change of the weights, against equal bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import beeline as bl
from beeline.networks.adapters.delta import weight_of
from beeline.networks.compressing.compressed import stored_bytes
from beeline.networks.compressing.compressor import Call
from beeline.networks.compressing.formats import Integers
from beeline.networks.compressing.mixed import MixedBits
from beeline.networks.compressing.quantize import Quantize
from beeline.networks.compressing.rounding import OptimalBrain
from beeline.networks.compressing.weights.sensitivity import Curvature, Sensitivity
from benchmarks.claims.storing import change_of, digits
from benchmarks.claims.toys import finding
from benchmarks.claims.verdict import Finding

METHOD = "HAWQ: bits of layers by their curvature"
CLAIM = "The largest eigenvalue of the Hessian of a block says how many bits it needs."
ROUNDS, CALLS = 5, 1  # of the power iteration, and evaluations


class LargestEigenvalue(Sensitivity):
    """D_l ~ lambda_l / n_l |w' - w|^2,  lambda_l the largest eigenvalue of J^T J of layer l, by power iteration."""

    def __call__(
        self, network: nn.Module, calls: Sequence[Call], layers: Mapping[str, nn.Module]
    ) -> Callable[[str, nn.Module], float]:
        largest = {}
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for name, layer in layers.items():
                w = weight_of(layer).requires_grad_(True)
                direction = bl.Rng(0).fork(name).normal(torch.empty_like(w))
                for _ in range(ROUNDS):
                    direction = direction / direction.norm()
                    product = torch.zeros_like(w)
                    for call in calls[:: max(1, len(calls) // CALLS)]:
                        v = network(*call.inputs)
                        u = torch.zeros_like(v, requires_grad=True)
                        back = torch.autograd.grad(v, w, u, create_graph=True)[0]
                        forward = torch.autograd.grad((back * direction).sum(), u, retain_graph=True)[0]
                        product = product + torch.autograd.grad(v, w, forward)[0]
                    direction = product.detach()
                largest[name] = float(direction.norm()) / w.numel()
                w.requires_grad_(False)
        return lambda name, made: (
            largest[name] * float((weight_of(made) - weight_of(layers[name])).detach().square().sum())
        )


def measure(rng: bl.Rng) -> list[Finding]:
    net, probe, fresh = digits(rng.seed)

    def error(method: MixedBits | Quantize) -> float:
        return change_of(method.apply(net, method.plan(net, probe), probe, rng), net, fresh)

    found = []
    for bits in (3, 4):
        equal, less = (Quantize(Integers(b, 64, OptimalBrain())) for b in (bits, bits - 1))
        share = equal.plan(net, probe).after / stored_bytes(net) + 1e-6
        plain, worse = error(equal), error(less)
        found += [
            finding(f"bytes of {bits} bits: error by the {name} of the curvature, relative to equal bits", 1.0,
                    error(MixedBits(share, errors=how)) / plain, worse / plain, "a bit less")
            for name, how in (("largest eigenvalue", LargestEigenvalue()), ("diagonal", Curvature()))
        ]  # fmt: skip
    return found
