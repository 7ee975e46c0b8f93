"""Hidden units of one network put into the order of another, which leaves its outputs as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from beeline.core.errors import require


class Units(NamedTuple):
    """Units between layers: the outputs of ``first`` and, after a function of each alone, the inputs of ``then``."""

    first: str
    then: str


def plan(cost: Tensor) -> Tensor:
    """The transport [a,b] of least cost between uniform masses of a and b units; its rows sum to 1/a.

    Every unit is repeated until both sides have equally many, where the plan is an assignment.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = cost.shape
    n = math.lcm(a, b)
    rows, columns = linear_sum_assignment(
        cost.repeat_interleave(n // a, 0).repeat_interleave(n // b, 1).cpu().double().numpy()
    )
    flat = torch.as_tensor(rows // (n // a)) * b + torch.as_tensor(columns // (n // b))
    counts = torch.bincount(flat, minlength=a * b).view(a, b)
    return counts.to(cost) / n


def aligned(network: nn.Module, reference: nn.Module, units: Sequence[Units], passes: int = 10) -> nn.Module:
    """A copy of a network with its hidden units in the order of those of ``reference``.

    P = argmax <P, sum of similarities of the weights into and out of the units>, one group after another until nothing
    changes.  With equally many units the copy computes the same function; with other numbers, a layer of the network
    gets those of the reference, and units are means over what is transported to them.
    Source: Ainsworth et al. 2022, "Git Re-Basin" (arXiv 2209.04836); Singh and Jaggi 2019, "Model Fusion via Optimal
    Transport" (arXiv 1910.05653).
    """
    made = copy.deepcopy(network)
    for group in units:
        for name in group:
            require(
                isinstance(dict(reference.named_modules()).get(name), nn.Linear),
                f"there is no linear layer {name!r} in {type(reference).__name__}; name the layers before and after "
                "the units",
            )
    with torch.no_grad():
        for _ in range(passes):
            if not any([_align(made, reference, group) for group in units]):
                break
    return made


def _align(net: nn.Module, reference: nn.Module, units: Units) -> bool:
    """Reorder one group of units in place; whether anything changed."""
    first: Any = net.get_submodule(units.first)
    then: Any = net.get_submodule(units.then)
    wanted: list[Any] = [reference.get_submodule(name) for name in units]
    used = first.in_features == wanted[0].in_features, then.out_features == wanted[1].out_features
    ours, theirs = _features(first, then, *used), _features(wanted[0], wanted[1], *used)
    p = plan(torch.cdist(theirs, ours).square())
    a = len(theirs)
    move = a * p  # [a,b], rows sum to 1
    if move.shape[0] == move.shape[1] and torch.equal(move, torch.eye(a, dtype=move.dtype)):
        return False
    first.weight = nn.Parameter(move @ first.weight)
    if first.bias is not None:
        first.bias = nn.Parameter(move @ first.bias)
    spread = p / p.sum(0, keepdim=True)  # what every unit gives, columns sum to 1
    then.weight = nn.Parameter(then.weight @ spread.mT)
    first.out_features, then.in_features = a, a
    return True


def _features(first: Any, then: Any, into: bool, out: bool) -> Tensor:
    """What describes a unit [n,...]: its weights in and out, where the other side has equal sizes, and its bias."""
    parts = [first.weight] * into + [then.weight.mT] * out
    parts += [] if first.bias is None else [first.bias[:, None]]
    return torch.cat(parts, 1)
