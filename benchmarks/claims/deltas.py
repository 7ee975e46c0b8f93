"""Shared by the claims about deltas: a flow of the ring adapted to another style, and matrices of known form."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import Delta, LoRA
from beeline.networks.adapters.factors import floor
from benchmarks.claims.toys import RING, even, learn, network, noise, points, sample, w2
from benchmarks.claims.verdict import Finding

STYLE, SHIFT = torch.tensor([[0.55, -0.23], [0.23, 0.55]]), torch.tensor([1.0, 0.5])  # turned, smaller, elsewhere
BASE, STEPS, RATE = 400, 150, 5e-3
OUT, INTO = 48, 32  # of matrices
FITTED, MATRIX_RATE = 600, 2e-2


def restyled(x: Tensor) -> Tensor:
    """Points [n,2] in the new style."""
    return x @ STYLE.mT + SHIFT


@functools.cache
def base(seed: int) -> Any:
    """A flow of the ring."""
    rng = bl.Rng(seed).fork("base of deltas")
    return learn(network(rng), bl.objectives.FlowMatching(), points(rng), rng, steps=BASE)


@functools.cache
def tests(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, points of the ring, and points in the new style."""
    rng = bl.Rng(seed).fork("tests of deltas")
    real = even(RING, rng)[0]
    return noise(rng), real, restyled(real)


def tune(field: Any, seed: int, data: Any = None, steps: int = STEPS, rate: float = RATE, name: str = "tune") -> Any:
    """A field trained on data, by default those in the new style."""
    rng = bl.Rng(seed).fork(name)
    given = bl.Batch(restyled(points(rng).x1)) if data is None else data
    return learn(field, bl.objectives.FlowMatching(), given, rng, steps=steps, peak=rate)


def distance(field: Any, seed: int, old: bool = False) -> float:
    """W2 distance of samples (20 Heun steps) to points in the new style, or to those of the ring."""
    x0, first, second = tests(seed)
    return w2(sample(field, x0, 20, solver=bl.solvers.HEUN), first if old else second)


def changed(delta: Delta, seed: int) -> Any:
    """The base with a delta in the layers of its blocks."""
    with bl.Rng(seed).fork("start", repr(delta)).ambient():
        return adapted(base(seed), delta)


def numbers(field: Any) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in field.parameters() if p.requires_grad)


def modes(x: Tensor) -> Tensor:
    """The mode of the ring [n] that is nearest to each point."""
    return torch.cdist(x, RING.parts().means.float()).argmin(1)


@functools.cache
def tuned_on(seed: int, chosen: tuple[int, ...], delta: Delta | None = None) -> Any:
    """The base trained on some modes of the ring alone: all of its weights, or a delta."""
    x = points(bl.Rng(seed).fork("modes")).x1
    data = bl.Batch(x[torch.isin(modes(x), torch.tensor(chosen))])
    field = copy.deepcopy(base(seed)) if delta is None else changed(delta, seed)
    return tune(field.requires_grad_(True) if delta is None else field, seed, data, name=f"modes {chosen}")


@functools.cache
def moved(delta: Delta, seed: int, rate: float = RATE) -> tuple[float, float, int]:
    """W2 to the new style and to the ring after training, and the numbers that were trained."""
    field = changed(delta, seed)
    count = numbers(field)
    field = tune(field, seed, rate=rate)
    return distance(field, seed), distance(field, seed, old=True), count


def lora_of(count: int, seed: int) -> LoRA:
    """The LoRA of the least rank with at least as many numbers."""
    return LoRA(max(1, -(-count // numbers(changed(LoRA(1), seed)))))


def fitted(delta: Delta, w: Tensor, target: Tensor, rng: bl.Rng) -> float:
    """The relative error of a delta that is fitted to a target weight by Adam."""
    with rng.ambient():
        start = delta.start(w)
    free = {k: v.clone().requires_grad_(not k.startswith("_")) for k, v in start.items()}
    trained = [v for v in free.values() if v.requires_grad]
    adam = torch.optim.Adam(trained, lr=MATRIX_RATE)
    size = float((target - w).square().sum())
    for step in range(FITTED):
        for group in adam.param_groups:
            group["lr"] = MATRIX_RATE * (1 - step / FITTED)
        loss = (delta.weight(w, free) - target).square().sum() / size
        adam.zero_grad()
        loss.backward()
        adam.step()
    return float(loss.detach().sqrt())


def own_target(delta: Delta, rng: bl.Rng) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """A weight, one that the delta gives with random numbers, and these numbers."""
    w = rng.fork("w").normal(torch.empty(OUT, INTO)) / INTO**0.5
    with rng.fork("numbers").ambient():
        p = delta.start(w)
        p = {k: v if k.startswith("_") else v + 0.5 * torch.randn_like(v) for k, v in p.items()}
    return w, delta.weight(w, p), p


class Placed:
    """A delta whose fixed numbers, such as places, are given."""

    def __init__(self, delta: Delta, fixed: dict[str, Tensor]):
        self.delta, self.fixed = delta, {k: v for k, v in fixed.items() if k.startswith("_")}

    def start(self, w: Tensor) -> dict[str, Tensor]:
        return self.delta.start(w) | self.fixed

    def weight(self, w: Tensor, p: Any) -> Tensor:
        return self.delta.weight(w, p)


def against_lora(delta: Delta, rng: bl.Rng, small: Delta | None = None) -> Sequence[Finding]:
    """A delta against LoRA of at least as many numbers: on a flow, on a weight of its own form, on one of rank 4."""
    new, old, count = moved(delta, rng.seed)
    other = lora_of(count, rng.seed)
    lora_new, lora_old, more = moved(other, rng.seed)
    raw = distance(base(rng.seed), rng.seed)
    matrix = small or delta
    w, target, p = own_target(matrix, rng)
    size = sum(v.numel() for k, v in p.items() if not k.startswith("_"))
    rank = max(1, -(-size // (OUT + INTO)))
    own = fitted(Placed(matrix, p), w, target, rng.fork("fit"))  # type: ignore[arg-type]
    low = w + rng.fork("b").normal(torch.empty(OUT, 4)) @ rng.fork("a").normal(torch.empty(4, INTO)) / INTO
    reverse = fitted(matrix, w, low, rng.fork("low"))
    return [
        Finding(f"W2 to the new style after {STEPS} steps, {count} numbers, against LoRA of {more}", lora_new, new, raw,
                "not adapted"),
        Finding("W2 to the old data after it (forgetting), against LoRA", lora_old, old,
                distance(network(rng.fork("none")), rng.seed, old=True), "untrained network"),
        Finding(f"error on a weight of its own form, {size} numbers, against the floor of LoRA of rank {rank}",
                floor(target - w, rank), own, 1.0, "no change"),
        Finding("error on a change of rank 4, against the floor of LoRA of equal count", floor(low - w, rank), reverse,
                1.0, "no change"),
    ]  # fmt: skip
