"""Flows of points with noisy hints of them as a condition. The robust flow is finetuned on hints with more noise; its
difference in the first two of three blocks and the layers before, in 4 bits, is added to a flow that was finetuned to
another style with clean hints. Losses on data of that style with noisier hints, and bytes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.compressing.formats import Integers
from benchmarks.claims.deltas import restyled
from benchmarks.claims.toys import learn, network, points
from benchmarks.claims.verdict import Finding

METHOD = "Robust weight signatures: a difference added and taken away"
CLAIM = "A stored difference of shallow layers in few bits makes other models robust, and is 13 times smaller."
CLEAN, NOISY, BITS = 0.1, 1.0, 4


def data(seed: int, spread: float, style: Any, name: str = "data") -> bl.Batch:
    """Points in a style, with hints of the points before it."""
    rng = bl.Rng(seed).fork("hints", name)
    x = points(rng).x1
    return bl.Batch(style(x), cond={"hint": x + spread * rng.fork("noise").normal(x)})


def plain(x: Tensor) -> Tensor:
    return x


@functools.cache
def trained(seed: int) -> tuple[Any, Any, Any]:
    """The clean flow, the robust one, and the clean one in another style."""
    rng = bl.Rng(seed).fork("signatures")
    loss = bl.objectives.FlowMatching()
    clean = learn(network(rng, conditions={"hint": {"size": 2}}), loss, data(seed, CLEAN, plain), rng, steps=500)

    def tuned(batch: bl.Batch) -> Any:
        net = copy.deepcopy(clean).requires_grad_(True)
        return learn(net, loss, batch, rng.fork("tune"), steps=200, peak=2e-3)

    return clean, tuned(data(seed, NOISY, plain)), tuned(data(seed, CLEAN, restyled))


def shallow(name: str) -> bool:
    return "weight" in name and not any(part in name for part in ("block.2", "backbone.out"))


def patched(net: Any, change: dict[str, Tensor], amount: float) -> Any:
    """A copy with a change added to its weights."""
    made = copy.deepcopy(net)
    with torch.no_grad():
        for name, d in change.items():
            made.get_parameter(name).add_(amount * d)
    return made


def measure(rng: bl.Rng) -> list[Finding]:
    clean, robust, other = trained(rng.seed)
    deep = {n: p.detach() - clean.get_parameter(n) for n, p in robust.named_parameters() if p.ndim == 2}
    exact = {n: d for n, d in deep.items() if shallow(n)}
    form = Integers(BITS)
    stored = {n: form.encode(d) for n, d in exact.items()}
    signature = {n: form.decode(stored[n], *d.shape) for n, d in exact.items()}
    size = sum(v.numel() * v.element_size() for parts in stored.values() for v in parts.values())
    full = sum(4 * p.numel() for p in clean.parameters())
    held = data(rng.seed, NOISY, restyled, "test")

    @torch.no_grad()
    def loss(net: Any) -> float:
        return float(bl.objectives.FlowMatching()(net, held, rng.fork("loss")).value)

    back = patched(patched(other, signature, 1.0), signature, -1.0)
    worst = max(float((p - other.get_parameter(n)).abs().max()) for n, p in back.named_parameters())
    shuffled = {n: d.flatten()[rng.fork(n).permutation(d.numel())].view_as(d) for n, d in signature.items()}
    none, half, whole = loss(other), loss(patched(other, signature, 0.5)), loss(patched(other, signature, 1.0))
    negative, random = loss(patched(other, signature, -1.0)), loss(patched(other, shuffled, 1.0))
    trivial = "taken away instead"
    return [
        Finding("loss with noisier hints: with the signature (figure) against without", none, whole, negative, trivial),
        Finding("loss with noisier hints: the signature (figure) against its entries in another order", random, whole,
                negative, trivial),
        Finding("loss with noisier hints: all of the signature (figure) against half", half, whole, negative, trivial),
        Finding("loss with noisier hints: 4 bits and shallow (figure) against all layers in float32, 10% worse",
                1.1 * loss(patched(other, deep, 1.0)), whole, none, "without it"),
        Finding("bytes of the signature against a thirteenth of those of the flow", full / 13, size,
                sum(4 * d.numel() for d in exact.values()), "in float32"),
        Finding("largest entry after adding and taking away, against 1e-6", 1e-6, worst,
                max(float(d.abs().max()) for d in signature.values()), "added only"),
    ]  # fmt: skip
