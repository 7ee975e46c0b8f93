"""Seat belts: what stops a run before it spoils what was learned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from beeline.core.types import BeelineError
from beeline.learn.ema import Average


class Diverged(BeelineError):
    """Numbers became non-finite; ``step`` is the step in which they did."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop and has saved where it was."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def first_bad(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The first tensor with NaN or infinite values, in words; None when all are finite."""
    for name, tensor in named:
        if tensor is None or not tensor.is_floating_point():
            continue
        bad = ~tensor.detach().isfinite()
        if bool(bad.any()):
            return f"{name} ({int(bad.sum())} of {tensor.numel()} values)"
    return None


def check_step(loss: float, norm: float, step: int, networks: Mapping[str, nn.Module]) -> None:
    """Stop before an update that would carry non-finite numbers into the weights."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    weights = first_bad((f"{n}.{k}", p) for n, net in networks.items() for k, p in net.named_parameters())
    slopes = first_bad((f"{n}.{k}", p.grad) for n, net in networks.items() for k, p in net.named_parameters())
    where = f"the weight {weights}" if weights else f"the gradient of {slopes}" if slopes else "no single gradient"
    raise Diverged(
        f"step {step} has loss {loss:g} and gradient norm {norm:g}; the first bad tensor is {where}; the weights were "
        "not changed by this step: resume from the last checkpoint with a lower rate, or look for bad data in the step",
        step,
    )


def check_state(step: int, networks: Mapping[str, nn.Module], averages: Mapping[str, Iterable[Average]]) -> None:
    """Refuse to keep a state with non-finite weights or averages."""
    every: list[tuple[str, Tensor]] = [
        (f"{n}.{k}", p) for n, net in networks.items() for k, p in net.named_parameters()
    ]
    for n, many in averages.items():
        every += [(f"the average of {n}.{k}", t) for average in many for k, t in average.state().items()]
    if every and math.isfinite(float(torch.stack([t.detach().sum().float().cpu() for _, t in every]).sum())):
        return
    bad = first_bad(every)
    if bad is not None:
        raise Diverged(
            f"after step {step} the first bad tensor is {bad}; this state is not kept: resume from the last "
            "checkpoint with a lower rate",
            step,
        )
