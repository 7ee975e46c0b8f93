"""Shared by the claims about branches: a small transformer of digits that is moved to other pictures."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

import beeline as bl
from beeline.networks.adapters.adapted import adapted
from beeline.networks.adapters.delta import Delta
from beeline.networks.branches.branched import branched
from beeline.objectives.alignment import Noted
from benchmarks.claims.controls import base, numbers
from benchmarks.claims.small_transformers import MATCHING, digits
from benchmarks.claims.toys import finding, learn
from benchmarks.claims.verdict import Finding

STEPS, RATE, FULL_RATE = 100, 1e-2, 2e-3  # of training a small part, and all weights
FEW = 8  # pictures


def negative(x: Tensor) -> Tensor:
    """Pictures with light and dark exchanged, and less contrast."""
    return 0.2 - 0.6 * x


def turned(x: Tensor) -> Tensor:
    """Pictures turned to the right."""
    return x.rot90(-1, (2, 3))


def striped(x: Tensor) -> Tensor:
    """Pictures with fine stripes, whose sign alternates from picture to picture."""
    stripes = 1 - 2 * (torch.arange(x.shape[-1]) % 2).to(x)
    signs = 1 - 2 * (torch.arange(len(x)) % 2).to(x)
    return 0.7 * x + 0.3 * signs[:, None, None, None] * stripes


def blurred(x: Tensor) -> Tensor:
    """Pictures without their fine features: means of 3 x 3 pixels."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=-1.0), 3, 1)


def with_part(seed: int, part: Any, layers: tuple[str, ...] = (), net: Any = None) -> Any:
    """The base with a branch or a delta, or all of its weights free."""
    field = base(seed) if net is None else net
    with bl.Rng(seed).fork("start", repr(part)).ambient():
        if part is None:
            return copy.deepcopy(field).requires_grad_(True)
        return adapted(field, part, layers) if Delta in type(part).__mro__ else branched(field, part)


@functools.cache
def moved(seed: int, part: Any, style: Any, few: bool = False, layers: tuple[str, ...] = ()) -> tuple[float, int, Any]:
    """The loss of held-out pictures of a style after training on others, the numbers that were trained, and the net."""
    net, x1 = with_part(seed, part, layers), style(digits()[0].x1)
    count, rng = numbers(net), bl.Rng(seed).fork("moved")
    net = trained(net, part, x1[:FEW] if few else x1, rng)
    return loss(net, seed, style(digits()[1].x1)), count, net


def trained(net: Any, part: Any, x1: Tensor, rng: bl.Rng) -> Any:
    """The network after training of a part on pictures; of all weights for None."""
    terms = {} if part is None or Delta in type(part).__mro__ else dict(part.terms)
    objective = Noted(MATCHING, terms) if terms else MATCHING
    peak = FULL_RATE if part is None else RATE
    return learn(net, objective, bl.Batch(x1), rng, steps=STEPS, batch_size=32, peak=peak)


def before(seed: int, style: Any) -> float:
    """The loss of the base."""
    return loss(base(seed), seed, style(digits()[1].x1))


def loss(net: Any, seed: int, x1: Tensor) -> float:
    """The loss of pictures, with fixed noise and times."""
    rng = bl.Rng(seed).fork("held")
    x0, t = rng.fork("noise").normal(x1), rng.fork("at").uniform(len(x1), x1)
    with torch.no_grad():
        v = net(x0 + t[:, None, None, None] * (x1 - x0), t)
    return float((v - (x1 - x0)).square().mean())


def against(
    name: str, seed: int, figure: Any, other: Any, style: Any, few: bool = False,
    layers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> Finding:  # fmt: skip
    """The loss with one part against that with another, each in its layers."""
    own, count, _ = moved(seed, figure, style, few, layers[0])
    rival, size, _ = moved(seed, other, style, few, layers[1])
    pictures = f"{FEW} pictures" if few else "all pictures"
    return finding(f"loss, {style.__name__}, {pictures}: {name} ({count} numbers against {size})", rival, own,
                   before(seed, style), "not adapted")  # fmt: skip
